"""What a vLLM replica keeps of the sequences it works on, and what that leaves room for on its GPUs."""

from __future__ import annotations

import math

from cascade.planning.shapes import LayerShape, ModelShape
from cascade.planning.sizes import DTYPE_BYTES, GIB

CONTEXT = int(0.6 * GIB)
"""CUDA context and kernels: outside the share that `gpu_memory_utilization` speaks of only in part, so inside here."""
GRAPHS = int(0.5 * GIB)
"""CUDA graphs of the usual batch sizes."""
BATCHED_TOKENS = 8192
"""Tokens of a prefill step (`max_num_batched_tokens`), which the working space is measured with."""
SEQUENCES = 256
"""`max_num_seqs`: logits of so many positions exist at once."""
STATE_BYTES = {"mamba": 4}
"""The scan's state is kept in fp32 (`mamba_ssm_cache_dtype` of the models that have one)."""


def sequence_cache(shape: ModelShape, tokens: int, *, dtype: str, tensor_parallel: int = 1) -> dict[str, int]:
    """What one sequence of `tokens` tokens takes on each GPU of a replica: `kv_cache` and `state_cache`, bytes.

    Heads of keys and values are split over the GPUs until each has one; then they are copied. MLA's latent is copied.
    A layer with a window keeps no more than that. Recurrent layers keep the same whatever the length.
    """
    size = DTYPE_BYTES[dtype]
    attention = sum(
        _cached_width(layer, tensor_parallel) * (min(tokens, layer.window) if layer.window else tokens)
        for layer in shape.of_kind("attention")
    )
    states = sum(_state(layer, size) for layer in shape.of_kind("mamba"))
    return {"kv_cache": int(attention * size), "state_cache": math.ceil(states / tensor_parallel)}


def _cached_width(layer: LayerShape, tensor_parallel: int) -> float:
    """Numbers a token on one GPU."""
    if layer.cache_width != layer.kv_heads * (layer.head_dim + layer.value_dim):
        return layer.cache_width  # MLA
    return layer.cache_width / min(tensor_parallel, layer.kv_heads)


def _state(layer: LayerShape, size: int) -> int:
    """Bytes of a recurrent block's state of one sequence: the scan's matrix a head, and the convolution's last taps."""
    scan = layer.heads * layer.head_dim * layer.state * STATE_BYTES["mamba"]
    return scan + max(0, layer.convolution - 1) * layer.convolution_width * size


def vllm_memory(
    shape: ModelShape,
    *,
    dtype: str,
    tensor_parallel: int,
    gpu_memory_gib: float,
    utilization: float,
    max_model_len: int,
) -> dict[str, int]:
    """What one GPU of a replica holds, kind -> bytes; the caches take what is left of the share that vLLM may use."""
    size = DTYPE_BYTES[dtype]
    weights = size * shape.total // tensor_parallel
    tokens = min(BATCHED_TOKENS, max(max_model_len, 1))
    working = _prefill_work(shape, tokens, size) // tensor_parallel + 2 * size * tokens * shape.hidden
    logits = SEQUENCES * shape.vocabulary * (size + 4) // tensor_parallel
    left = int(gpu_memory_gib * GIB * utilization) - weights - working - logits - CONTEXT - GRAPHS
    one = sequence_cache(shape, max_model_len, dtype=dtype, tensor_parallel=tensor_parallel)
    states = left * one["state_cache"] // max(1, sum(one.values()))
    return {
        "parameters": weights,
        "kv_cache": left - states,
        "state_cache": states,
        "activations": working + logits,
        "framework": CONTEXT + GRAPHS,
    }


def _prefill_work(shape: ModelShape, tokens: int, size: int) -> int:
    """Tensors of the widest block, which exist for one block at a time."""
    widest = 0
    for layer in shape.layers:
        rows = layer.chosen * (2 * layer.expert_input + 3 * layer.expert_width) + 3 * layer.shared_width
        inner = layer.projected + layer.convolution_width + 2 * layer.heads * layer.head_dim
        widest = max(widest, {"attention": 3 * layer.heads * layer.head_dim, "mlp": 3 * layer.width, "moe": rows,
                              "mamba": inner}[layer.kind])  # fmt: skip
    return size * tokens * widest
