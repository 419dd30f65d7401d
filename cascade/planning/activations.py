"""Activations of training: what the forward pass leaves behind for the backward pass, in bytes a token, block by block.

A block's figure is the sum of the tensors that autograd saves in transformers' code for it, each counted once; tests
compare them with what autograd really saved. D is the model's width, s the bytes of a number in the policy's dtype.

    norm        what one of the model's own norms saved when it was tried (RMSNorm in bf16: an fp32 copy and its output)
    attention   norm, its output, q, k, v and the attention's output, and what norms of q and k save
    mlp         norm, its output, and every tensor of the hidden width that is not just an activation's input
    moe         norm, its output, the router's scores; K rows a token in and out of the experts, and their hidden rows
    mamba       norm, its output, the input projection; with CUDA kernels the scan's output, without them every
                intermediate tensor of the scan written out in PyTorch (Dao and Gu 2024, section 6), all in fp32
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.config import PolicyConfig
from cascade.planning.shapes import LayerShape, ModelShape
from cascade.planning.sizes import DTYPE_BYTES

STATISTICS = 8
"""Bytes a token of a norm's own numbers and the like."""


@dataclass(frozen=True)
class Activations:
    """Bytes on one GPU in one micro-batch."""

    saved: int
    """Held from the forward to the backward pass, over all layers."""
    transient: int
    """More than that while the block that needs most is computed, forward or backward."""


def activations(shape: ModelShape, policy: PolicyConfig, *, tokens: int, row: int, kernels: bool = True) -> Activations:
    """What a micro-batch of `tokens` tokens on one GPU takes, in rows of `row` tokens.

    Args:
        tokens: of the micro-batch that this GPU has: rows times tokens of a row, over `sequence_parallel`.
        row: tokens that attention sees together.
        kernels: Mamba layers run on the CUDA kernels (`mamba_ssm`, `causal_conv1d`) and not on their reference.
    """
    size = DTYPE_BYTES[policy.dtype]
    blocks = [saved_a_token(shape, layer, policy, row=row, kernels=kernels) for layer in shape.layers]
    ends = shape.norm_bytes[policy.dtype] * shape.hidden + size * shape.hidden  # the last norm, and what the head reads
    if not policy.activation_checkpointing:
        work = max((_backward_a_token(shape, layer, policy, kernels=kernels) for layer in shape.layers), default=0)
        return Activations(int(tokens * (sum(blocks) + ends)), int(tokens * work))
    by_layer: dict[int, float] = {}
    for layer, saved in zip(shape.layers, blocks, strict=True):
        by_layer[layer.layer] = by_layer.get(layer.layer, 0) + saved
    work = max(_backward_a_token(shape, layer, policy, kernels=kernels) for layer in shape.layers)
    inputs = size * shape.hidden * len(by_layer)
    return Activations(int(tokens * (inputs + ends)), int(tokens * (max(by_layer.values()) + work)))


def saved_a_token(shape: ModelShape, layer: LayerShape, policy: PolicyConfig, *, row: int, kernels: bool) -> float:
    """Bytes that one block saves for each token."""
    size = DTYPE_BYTES[policy.dtype]
    own = shape.norm_bytes[policy.dtype] * (layer.norms * shape.hidden + layer.normed)
    own += size * shape.hidden + STATISTICS
    if layer.kind == "attention":
        return own + _attention(layer, policy, row)
    if layer.kind == "mlp":
        return own + size * (4 if layer.gated else 2) * layer.width
    if layer.kind == "moe":
        return own + _mixture(shape, layer, size, policy.expert_parallel > 1)
    return own + (_fused_scan(shape, layer, size) if kernels else _reference_scan(layer, size))


def _attention(layer: LayerShape, policy: PolicyConfig, row: int) -> float:
    size, queries = DTYPE_BYTES[policy.dtype], layer.heads * layer.head_dim
    outputs = layer.heads * layer.value_dim
    flash = policy.attention.startswith("flash")
    # transformers repeats keys and values for every query head where there is a mask, as there is in packed rows
    heads = layer.kv_heads if flash or not policy.packing else layer.heads
    base = size * (queries + outputs + heads * (layer.head_dim + layer.value_dim)) + size * layer.latent
    if policy.attention == "eager":
        return base + layer.heads * row * (4 + size if size < 4 else size)  # the softmax in fp32, and its cast
    mask = 0 if flash or not policy.packing else size * row  # kept by every layer, in the policy's dtype
    return base + 4 * layer.heads + mask


def _mixture(shape: ModelShape, layer: LayerShape, size: int, exchanged: bool) -> float:
    """Rows of tokens are there once before and once behind the experts; exchanged with other processes, twice."""
    hidden = (4 if layer.gated else 2) * layer.expert_width
    rows = layer.chosen * size * ((4 if exchanged else 2) * layer.expert_input + hidden)
    shared = size * (4 if layer.gated else 2) * layer.shared_width
    exact = 4 * shape.hidden if shape.selection_biases and size < 4 else 0  # such routers read an fp32 copy
    choice = 8 * layer.experts + 40 * layer.chosen
    return rows + shared + exact + choice


def _fused_scan(shape: ModelShape, layer: LayerShape, size: int) -> float:
    """`mamba_split_conv1d_scan_combined` keeps its input and its output; the rest is computed again."""
    return size * (layer.projected + layer.heads * layer.head_dim)


def _reference_scan(layer: LayerShape, size: int) -> float:
    """H heads of P numbers, a state of N, chunks of Q tokens: three tensors [Q, Q] a head and chunk, five of B or C."""
    inner = layer.heads * layer.head_dim
    scan = 3 * layer.heads * layer.chunk + 5 * layer.heads * layer.state + 2 * inner * layer.state / layer.chunk
    copies = 10 * 4 * inner + size * inner if size < 4 else 9 * 4 * inner + size * layer.convolution_width
    return size * (layer.projected + layer.convolution_width) + copies + 4 * scan + 24 * layer.heads


def _backward_a_token(shape: ModelShape, layer: LayerShape, policy: PolicyConfig, *, kernels: bool) -> float:
    """Gradients of activations that exist at once, at most, in one block's backward pass."""
    size = DTYPE_BYTES[policy.dtype]
    flow = 2 * 4 * shape.hidden  # the residual stream's gradient, and a norm's in fp32
    if layer.kind == "attention":
        return flow + size * (2 * layer.heads * layer.head_dim + 2 * layer.heads * layer.value_dim)
    if layer.kind == "mlp":
        return flow + size * (3 if layer.gated else 2) * layer.width
    if layer.kind == "moe":
        return flow + layer.chosen * size * (2 * layer.expert_input + (3 if layer.gated else 2) * layer.expert_width)
    inner = layer.heads * layer.head_dim
    if kernels:  # the projection's gradient, the convolution again, states and their gradients, scores of chunks
        states = 2 * 4 * inner * layer.state / max(1, layer.chunk)
        return flow + size * (layer.projected + 2 * layer.convolution_width) + states + 8 * layer.groups * layer.chunk
    return flow + 4 * (3 * layer.heads * layer.chunk + 3 * inner)


def scoring_a_token(shape: ModelShape, policy: PolicyConfig, *, row: int, kernels: bool) -> float:
    """Bytes that a forward pass without gradients needs for each token: one block's tensors and the residual stream."""
    size = DTYPE_BYTES[policy.dtype]
    widest = max(saved_a_token(shape, layer, policy, row=row, kernels=kernels) for layer in shape.layers)
    return widest + 2 * size * shape.hidden + 4 * shape.hidden
