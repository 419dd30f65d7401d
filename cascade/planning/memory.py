"""Bytes that one GPU holds in each role of a run, by kind. Pure arithmetic: every function returns kind -> bytes.

A dict's values add up to the role's peak. Kinds of a trainer: parameters, gradients, optimizer (its state),
activations, logits, temporaries (of the optimiser's step), communication, framework. Of a sampler: parameters,
kv_cache, state_cache, activations, framework. Of a scorer that lives in the trainer's processes (teacher, reference):
parameters, activations, logits. Formulas and how well they hold: docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from cascade.config import PolicyConfig, RolloutConfig
from cascade.planning.activations import activations, scoring_a_token
from cascade.planning.caches import sequence_cache, vllm_memory
from cascade.planning.shapes import ModelShape
from cascade.planning.sizes import DTYPE_BYTES
from cascade.planning.training_states import (
    GPU,
    Machine,
    Sharding,
    accumulated_gradients,
    buckets,
    optimizer_state,
    sharding,
    step_temporaries,
    zero_options,
)

__all__ = [
    "fullest",
    "rollout_memory",
    "scoring_memory",
    "sequence_cache",
    "sequences_at_once",
    "served_scoring_memory",
    "training_host_memory",
    "training_phases",
]


def training_phases(
    shape: ModelShape,
    policy: PolicyConfig,
    *,
    ranks: int,
    freeze_router: bool = False,
    row_tokens: int | None = None,
    micro_batches: int = 2,
    reward_model: bool = False,
    machine: Machine = GPU,
) -> dict[str, dict[str, int]]:
    """The moments that can be the peak, each as kind -> bytes.

    `loss`: all activations of a micro-batch are there, and the LM head works. `turn`: the backward pass of the first
    block. `reduce`: the last gradients of a backward pass, when activations have gone. `step`: the optimiser's.

    Args:
        ranks: processes in training, over all nodes.
        freeze_router: routers have no gradient and no optimiser state.
        row_tokens: tokens of the longest row; default: `policy.row_tokens`.
        micro_batches: of a step on one process; from the second on, gradients are there when activations are.
        reward_model: a scalar head in place of the LM head: no logits.
    """
    shares = sharding(shape, policy, ranks=ranks, freeze_router=freeze_router)
    size = DTYPE_BYTES[policy.dtype]
    row = row_tokens or policy.row_tokens
    tokens = row * policy.rows_per_micro_batch // policy.sequence_parallel
    work = activations(shape, policy, tokens=tokens, row=row, kernels=machine.kernels)
    states = _states(policy, shares)
    passing = {**states, "communication": buckets(policy, shares, machine, ranks) + size * shares.gathered}
    before = accumulated_gradients(policy, shares) if micro_batches > 1 else _standing_gradients(policy, shares)
    logits = 0 if reward_model else loss_bytes(shape, policy, tokens=tokens)
    one = size * min(shape.largest, shares.trainable)  # a weight's gradient before it is added to what is there
    grown = 1 + machine.slack
    loss = {"gradients": before, "activations": int(work.saved * grown), "logits": int(logits * grown)}
    turn = {"gradients": before + one, "activations": int((work.saved + work.transient) * grown), "logits": 0}
    reduce = {"gradients": _reduced_gradients(policy, shares) + one, "activations": work.transient, "logits": 0}
    step = {
        "gradients": size * (shares.owned if policy.zero_stage else shares.trainable),
        "temporaries": _step(policy, shares, machine, shape.largest),
        "communication": passing["communication"] - size * shares.gathered if policy.zero_stage == 3 else 0,
    }
    kinds = ("gradients", "activations", "logits", "temporaries", "communication")
    blank = {**dict.fromkeys(kinds, 0), "framework": machine.framework}
    return {
        "loss": {**blank, **passing, **loss},
        "turn": {**blank, **passing, **turn},
        "reduce": {**blank, **passing, **reduce},
        "step": {**blank, **states, **step},
    }


def fullest(phases: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """The moment of `training_phases` in which most is held: the peak."""
    return max(phases.values(), key=lambda kinds: sum(kinds.values()))


def loss_bytes(shape: ModelShape, policy: PolicyConfig, *, tokens: int) -> int:
    """What the chunked LM head of `cascade.models.logprobs` needs beside hidden states and weight.

    Forward: the logits of a chunk in the policy's dtype, in fp32, and their exponentials. Backward: the first two, and
    the head's gradient in fp32, which in the end is there in the policy's dtype too. A head beside adapters has none.
    """
    size = DTYPE_BYTES[policy.dtype]
    logits = min(tokens, policy.log_prob_chunk) * shape.vocabulary
    products = size + 4 if size < 4 else 4
    gradient = 0 if policy.lora else 4 * shape.lm_head + (size * shape.lm_head if size < 4 else 0)
    return max((products + 4) * logits, products * logits + gradient)


def _states(policy: PolicyConfig, shares: Sharding) -> dict[str, int]:
    """What is there all the time on the device."""
    size = DTYPE_BYTES[policy.dtype]
    optimizer = 0 if policy.offload_optimizer != "none" else optimizer_state(policy, shares)
    held = 0 if policy.offload_parameters != "none" else size * shares.held
    return {"parameters": held, "optimizer": optimizer}


def _standing_gradients(policy: PolicyConfig, shares: Sharding) -> int:
    """Before a step's first backward pass: ZeRO 3 has its buffer always."""
    return accumulated_gradients(policy, shares) if policy.zero_stage == 3 else 0


def _reduced_gradients(policy: PolicyConfig, shares: Sharding) -> int:
    """At the end of a backward pass that adds to an earlier one; ZeRO 2 has what came before beside what comes."""
    own = accumulated_gradients(policy, shares)
    if policy.zero_stage in (1, 2):
        return own + DTYPE_BYTES[policy.dtype] * shares.owned
    return own


def _step(policy: PolicyConfig, shares: Sharding, machine: Machine, largest: int) -> int:
    return 0 if policy.offload_optimizer != "none" else step_temporaries(policy, shares, machine, largest)


def training_host_memory(
    shape: ModelShape, policy: PolicyConfig, *, ranks: int, ranks_per_node: int, freeze_router: bool = False
) -> dict[str, int]:
    """What offloading puts into the memory of one machine, kind -> bytes, for `ranks_per_node` processes on it.

    With `nvme`, state lies on disk and the machine's memory holds the buffers of a few sub-groups. Without offloading
    every figure is 0.
    """
    shares = sharding(shape, policy, ranks=ranks, freeze_router=freeze_router)
    size, here = DTYPE_BYTES[policy.dtype], min(ranks, ranks_per_node)
    sub_groups = 4 * min(shares.owned, zero_options(policy)["sub_group_size"])
    found = {"parameters": 0, "gradients": 0, "optimizer": 0}
    if policy.offload_optimizer != "none":
        on_disk = policy.offload_optimizer == "nvme"
        # gradients of the own share in the policy's dtype and in fp32; a copy of the weights on their way back
        found["gradients"] = (size + 4) * shares.owned
        found["optimizer"] = 12 * (sub_groups if on_disk else shares.owned) + size * shares.owned
    if policy.offload_parameters != "none":
        on_disk = policy.offload_parameters == "nvme"
        found["parameters"] = size * (min(sub_groups, shares.held) if on_disk else shares.held)
    return {kind: here * amount for kind, amount in found.items()}


def rollout_memory(
    shape: ModelShape, rollout: RolloutConfig, *, dtype: str, gpu_memory_gib: float, max_model_len: int
) -> dict[str, int]:
    """What one GPU of a vLLM replica holds, kind -> bytes: weights, its working space, and caches in all that is left.

    `kv_cache` and `state_cache` share what `rollout.gpu_memory_utilization` leaves, in the proportion of a sequence of
    `max_model_len` tokens; negative figures say that the weights do not fit.
    """
    return vllm_memory(
        shape,
        dtype=dtype,
        tensor_parallel=rollout.tensor_parallel,
        gpu_memory_gib=gpu_memory_gib,
        utilization=rollout.gpu_memory_utilization,
        max_model_len=max_model_len,
    )


def sequences_at_once(
    shape: ModelShape, rollout: RolloutConfig, *, dtype: str, gpu_memory_gib: float, max_model_len: int, tokens: int
) -> int:
    """How many sequences of `tokens` tokens a replica holds at once; 0: not one."""
    memory = rollout_memory(shape, rollout, dtype=dtype, gpu_memory_gib=gpu_memory_gib, max_model_len=max_model_len)
    one = sum(sequence_cache(shape, tokens, dtype=dtype, tensor_parallel=rollout.tensor_parallel).values())
    return max(0, (memory["kv_cache"] + memory["state_cache"]) // max(1, one))


def scoring_memory(
    shape: ModelShape,
    policy: PolicyConfig,
    *,
    resident: int = 1,
    row_tokens: int | None = None,
    machine: Machine = GPU,
) -> dict[str, int]:
    """What teachers or a reference add to every process of the trainer that scores with them, kind -> bytes.

    `teachers.engine: local` holds whole copies, whatever shards the policy.

    Args:
        resident: teachers in memory at once; one of them works.
    """
    size, row = DTYPE_BYTES[policy.dtype], row_tokens or policy.row_tokens
    tokens = row * policy.rows_per_micro_batch
    grown = 1 + machine.slack
    return {
        "parameters": resident * size * shape.total,
        "activations": int(grown * tokens * scoring_a_token(shape, policy, row=row, kernels=machine.kernels)),
        "logits": int(grown * (size + 8 if size < 4 else 8) * min(tokens, policy.log_prob_chunk) * shape.vocabulary),
    }


def served_scoring_memory(
    shape: ModelShape, *, dtype: str, tensor_parallel: int, gpu_memory_gib: float, max_model_len: int
) -> dict[str, int]:
    """What one GPU of a vLLM server that scores holds (`teachers.engine: vllm_server`), kind -> bytes."""
    rollout = RolloutConfig(tensor_parallel=tensor_parallel)
    return rollout_memory(shape, rollout, dtype=dtype, gpu_memory_gib=gpu_memory_gib, max_model_len=max_model_len)


def added(*parts: Mapping[str, int]) -> dict[str, int]:
    """Roles that share a GPU at the same time, kind by kind."""
    return {kind: sum(part.get(kind, 0) for part in parts) for kind in dict.fromkeys(kind for p in parts for kind in p)}
