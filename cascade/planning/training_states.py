"""Parameters, gradients and optimiser state of a process in training: how DeepSpeed really holds them, ZeRO 0 to 3.

Read in DeepSpeed 0.19.8 (`runtime/zero/stage_1_and_2.py`, `stage3.py`, `fp16/unfused_optimizer.py`) and held against
measurements in docs/scaling.md. T trainable parameters on a GPU before sharding, n processes:

    ZeRO 0, fp32    4 T of gradients and 8 T of moments, nothing is sharded
    ZeRO 0, bf16    a master copy of 4 T too, and in the step its gradients of 4 T
    ZeRO 1          master copy and moments, 12 T / n, in fp32 as well; whole gradients
    ZeRO 2          the same; gradients of the own share are added up, those of the others leave with their bucket
    ZeRO 3          the same; parameters are sharded too, blocks are gathered for as long as they are used

In the step the own gradients are turned to fp32 (4 T / n), one parameter group or sub-group at a time, and AdamW's
square root makes temporaries as large as what it updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade.config import PolicyConfig
from cascade.planning.adapters import adapter_parameters
from cascade.planning.shapes import ModelShape
from cascade.planning.sizes import DTYPE_BYTES, GIB
from cascade.policy.engine_config import engine_config

FP32 = 4
MOMENTS = 8
"""AdamW's two moments, fp32."""


@dataclass(frozen=True)
class Machine:
    """What differs between GPUs and the CPU on which the arithmetic is checked."""

    kernels: bool = True
    """Mamba's CUDA kernels; the CPU has transformers' reference."""
    buckets_whole: bool = True
    """A reduction bucket takes its whole size from the start; on a CPU only the pages that are written do."""
    adam_temporaries: int = 1
    """Tensors of the size of what is updated: the for-each kernels of GPUs make one, the plain ones two."""
    framework: int = int(1.6 * GIB)
    """CUDA context and kernels (0.5 GiB), NCCL's buffers (0.6 GiB), cuBLAS and kernels' work spaces (0.5 GiB)."""
    slack: float = 0.04
    """Of activations and logits: what the caching allocator cannot use again (fragments)."""


GPU = Machine()
CPU = Machine(kernels=False, buckets_whole=False, adam_temporaries=2, framework=75 * 2**20, slack=0.0)
"""`framework`: what DeepSpeed, gloo and oneDNN allocate beside tensors, measured."""


@dataclass(frozen=True)
class Sharding:
    """How many parameters (not bytes) of a model a process has of each."""

    held: int
    """Parameters on this process's device, whole or its shard."""
    trainable: int
    """Of what it holds (under ZeRO 3: of the whole model), those with a gradient."""
    owned: int
    """Those whose optimiser state it has."""
    gathered: int
    """ZeRO 3: parameters of other processes that are here at once."""


def sharding(shape: ModelShape, policy: PolicyConfig, *, ranks: int, freeze_router: bool) -> Sharding:
    """Parameters of a process. Experts are spread over `expert_parallel` first, then over the copies of those."""
    routed = shape.kinds["routed_experts"]
    local = shape.total - routed + routed // policy.expert_parallel
    frozen = shape.kinds["router"] if freeze_router else 0
    adapters = adapter_parameters(shape, policy.lora) if policy.lora else None
    trainable = adapters if adapters is not None else local - frozen
    everywhere = adapters if adapters is not None else shape.total - frozen
    owned = trainable if policy.zero_stage == 0 else -(-everywhere // ranks)
    extra = adapters or 0
    if policy.zero_stage < 3:
        return Sharding(local + extra, trainable, owned, 0)
    return Sharding(-(-(shape.total + extra) // ranks), everywhere, owned, _gathered(shape, policy, ranks))


def _gathered(shape: ModelShape, policy: PolicyConfig, ranks: int) -> int:
    """Parameters that ZeRO 3 keeps whole since they are used again soon, at least one block and what is prefetched."""
    if ranks == 1:
        return 0
    zero = zero_options(policy)
    live, ahead = zero["stage3_max_live_parameters"], zero["stage3_prefetch_bucket_size"]
    block = max((layer.parameters for layer in shape.layers), default=0)
    return min(shape.total, max(live, max(block, shape.lm_head) + ahead))


def zero_options(policy: PolicyConfig) -> dict[str, Any]:
    """ZeRO's sizes, in numbers: the recipe's DeepSpeed JSON over DeepSpeed's defaults."""
    defaults = {
        "reduce_bucket_size": 5e8,
        "overlap_comm": policy.zero_stage == 3,
        "stage3_prefetch_bucket_size": 5e7,
        "stage3_max_live_parameters": 1e9,
        "sub_group_size": 1e9,
    }
    given = engine_config(policy)["zero_optimization"]
    merged = {**defaults, **{key: value for key, value in given.items() if key in defaults and value is not None}}
    return {key: value if isinstance(value, bool) else int(float(value)) for key, value in merged.items()}


def accumulated_gradients(policy: PolicyConfig, shares: Sharding) -> int:
    """Bytes of gradients that a process holds between two micro-batches of a step."""
    size = DTYPE_BYTES[policy.dtype]
    if policy.zero_stage <= 1:
        return size * shares.trainable
    return size * shares.owned


def optimizer_state(policy: PolicyConfig, shares: Sharding) -> int:
    """Bytes of master copy and moments, wherever they are."""
    master = 0 if policy.zero_stage == 0 and policy.dtype == "fp32" else FP32
    return (master + MOMENTS) * shares.owned


def step_temporaries(policy: PolicyConfig, shares: Sharding, machine: Machine, largest: int) -> int:
    """Bytes that the optimiser's step makes and frees: gradients in fp32 and AdamW's square roots."""
    if policy.zero_stage == 0:  # one tensor after the other on a CPU, all of them together on GPUs
        roots = shares.owned if machine.adam_temporaries == 1 else 2 * largest
        return FP32 * (roots + (shares.owned if policy.dtype == "bf16" else 0))
    at_once = shares.owned
    if policy.zero_stage == 3:
        at_once = min(shares.owned, zero_options(policy)["sub_group_size"])
    return FP32 * at_once * (1 + machine.adam_temporaries)


def buckets(policy: PolicyConfig, shares: Sharding, machine: Machine, ranks: int) -> int:
    """Bytes of the buffers that gradients are reduced in."""
    if policy.zero_stage == 0:
        return 0 if ranks == 1 else FP32 * min(int(5e8), shares.trainable)
    options = zero_options(policy)
    if not machine.buckets_whole:  # what is written there is a gradient that has left its own place; ZeRO 3 keeps it
        written = min(shares.trainable, options["reduce_bucket_size"]) if policy.zero_stage == 3 else 0
        return DTYPE_BYTES[policy.dtype] * written
    double = 2 if options["overlap_comm"] and policy.zero_stage < 3 else 1
    return DTYPE_BYTES[policy.dtype] * options["reduce_bucket_size"] * double
