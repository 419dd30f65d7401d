"""Floating-point operations of a model: of every block, of its attention and its scan, of the LM head.

A multiply and an add count as two. Attention counts the pairs of tokens that meet (half of a square for a causal
document), documents one by one. Training counts a backward pass as two forward passes (Kaplan et al. 2020, section
2.1), a checkpointed block as one more, and the LM head meets the tokens of the loss only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cascade.config import PolicyConfig
from cascade.planning.shapes import LayerShape, ModelShape

BACKWARD = 2
"""A backward pass costs two forward passes: gradients of inputs and of weights."""

HEAD_RECOMPUTED = 1
"""Logits are made twice: `models.logprobs` keeps none of them for the backward pass."""


@dataclass(frozen=True)
class Documents:
    """What goes through a model at once, e.g. `Documents(((1000.0, 2.5),))`: 2.5 documents of 1,000 tokens."""

    lengths: tuple[tuple[float, float], ...]  # (tokens of a document, how many such documents)

    @property
    def tokens(self) -> float:
        """Tokens of all documents."""
        return sum(length * count for length, count in self.lengths)

    def pairs(self, window: int = 0) -> float:
        """Pairs of a token and one that it attends to: L^2 / 2 a document, less behind a window of W tokens."""
        return sum(count * _pairs(length, window) for length, count in self.lengths)

    def share(self, part: float) -> Documents:
        """As many documents of every length, times `part`."""
        return Documents(tuple((length, count * part) for length, count in self.lengths))


def _pairs(length: float, window: int) -> float:
    if not window or length <= window:
        return length * length / 2
    return window * length - window * window / 2


@dataclass(frozen=True)
class BlockFlops:
    """One forward pass through one block."""

    matmul: float  # with its weights
    core: float  # without weights: attention's scores and values, or the scan


def block_flops(layer: LayerShape, documents: Documents) -> BlockFlops:
    """Forward operations of one block on these documents."""
    core = 0.0
    if layer.kind == "attention":
        core = 2 * documents.pairs(layer.window) * layer.heads * (layer.head_dim + layer.value_dim)
    if layer.kind == "mamba":
        core = scan_flops(layer) * documents.tokens
    return BlockFlops(2.0 * layer.active * documents.tokens, core)


def alike(shape: ModelShape) -> list[tuple[LayerShape, int]]:
    """The model's different blocks, and how often each is there: a plan asks for their sums very often."""
    known = _alike.get(id(shape.layers))
    if known is None or known[0] is not shape.layers:
        counted = Counter(replace(layer, layer=0) for layer in shape.layers)
        known = _alike[id(shape.layers)] = (shape.layers, list(counted.items()))
    return known[1]


_alike: dict[int, tuple[tuple[LayerShape, ...], list[tuple[LayerShape, int]]]] = {}


def scan_flops(layer: LayerShape) -> float:
    """Operations a token of the chunked scan of Mamba-2 (Dao and Gu 2024, section 6), chunks of c tokens.

    Inside a chunk: C B^T for each group and its product with X for each head, causal halves of [c, c]. Between chunks:
    the states that a chunk adds and what it reads from them, [N, P] a head.
    """
    inside = layer.chunk * (layer.groups * layer.state + layer.heads * layer.head_dim)
    between = 4 * layer.heads * layer.head_dim * layer.state
    return float(inside + between)


def head_flops(shape: ModelShape, loss_tokens: float) -> float:
    """Forward operations of the LM head on the tokens that are asked for."""
    return 2.0 * shape.lm_head * loss_tokens


def forward_flops(shape: ModelShape, documents: Documents, loss_tokens: float) -> float:
    """Operations of scoring: one pass, log-probabilities of `loss_tokens` tokens."""
    blocks = sum(count * _both(block_flops(layer, documents)) for layer, count in alike(shape))
    return blocks + head_flops(shape, loss_tokens)


def training_flops(
    shape: ModelShape, documents: Documents, loss_tokens: float, policy: PolicyConfig
) -> dict[str, float]:
    """Operations of a forward and a backward pass: attention, mamba, mlp, moe (with weights), scores, scan, lm_head.

    The values add up to all of them, recomputation included.
    """
    passes = 1 + BACKWARD + (1 if policy.activation_checkpointing else 0)
    kinds = ("attention", "mamba", "mlp", "moe", "scores", "scan")
    found: dict[str, float] = dict.fromkeys(kinds, 0.0)
    for layer, count in alike(shape):
        flops = block_flops(layer, documents)
        found[layer.kind] += passes * count * flops.matmul
        if flops.core:
            found["scores" if layer.kind == "attention" else "scan"] += passes * count * flops.core
    head = (1 + BACKWARD + HEAD_RECOMPUTED) * head_flops(shape, loss_tokens)
    return {**found, "lm_head": head}


def decoding_flops(shape: ModelShape, contexts: Iterable[float]) -> float:
    """Operations of one new token for each sequence, whose contexts are so long."""
    sequences = list(contexts)
    blocks = 0.0
    for layer, count in alike(shape):
        one = 2.0 * layer.active * len(sequences)
        if layer.kind == "attention":
            seen = sum(min(context, layer.window) if layer.window else context for context in sequences)
            one += 2 * seen * layer.heads * (layer.head_dim + layer.value_dim)
        if layer.kind == "mamba":
            one += 5.0 * layer.heads * layer.head_dim * layer.state * len(sequences)  # state update and read-out
        blocks += count * one
    return blocks + head_flops(shape, len(sequences))


def _both(flops: BlockFlops) -> float:
    return flops.matmul + flops.core
