"""How large a model is: its parameters by kind and the widths of every layer, without memory for a single weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.config import ModelConfig


@dataclass(frozen=True)
class LayerShape:
    """One mixer or feed-forward block. A decoder layer of a transformer is two of them: attention, then mlp or moe.

    Widths that a kind does not have are 0. Example, of Qwen3-8B: `LayerShape("attention", 0, 41943040, 41943040,
    heads=32, kv_heads=8, head_dim=128, value_dim=128, cache_width=2048)`.
    """

    kind: str
    """attention | mamba | moe | mlp."""
    layer: int
    """The decoder layer that it is in, from 0; blocks of the same layer have the same number."""
    parameters: int
    """Weights of the block without its norms."""
    active: int
    """Those that one token meets: routed experts by how many are chosen."""
    norms: float = 1.0
    """Norms of the residual stream that go with it, e.g. 2 where its output has one too."""

    heads: int = 0
    """Query heads; of a mamba block, its heads."""
    kv_heads: int = 0
    head_dim: int = 0
    """Of queries and keys; of a mamba block, of one head."""
    value_dim: int = 0
    cache_width: int = 0
    """Numbers that a token adds to the KV cache: keys and values, or MLA's latent and shared key."""
    window: int = 0
    """Tokens that attention looks back, 0: all."""
    latent: int = 0
    """Numbers that queries, keys and values are projected from or cut out of and that the backward pass needs."""
    normed: int = 0
    """attention: numbers a token that norms inside the block read, of queries and keys."""

    groups: int = 0
    """mamba: heads share B and C in groups."""
    state: int = 0
    """mamba: width of a head's state."""
    convolution: int = 0
    """mamba: taps of the causal convolution."""
    convolution_width: int = 0
    """mamba: channels of the causal convolution."""
    chunk: int = 0
    """mamba: tokens that the parallel scan takes at once."""
    projected: int = 0
    """mamba: width that the input projection makes of a token."""

    experts: int = 0
    """moe: E, routed experts."""
    chosen: int = 0
    """moe: K, experts a token is sent to."""
    routed: int = 0
    """moe: parameters of all E experts."""
    expert_width: int = 0
    """moe: hidden width of one expert."""
    expert_input: int = 0
    """moe: width of what an expert reads; the model's hidden width unless experts work in a latent space."""
    shared_width: int = 0
    """moe: hidden width of what every token meets beside the chosen experts."""

    width: int = 0
    """mlp: hidden width."""
    gated: bool = False
    """mlp, moe: a gate and an up projection (SwiGLU) rather than one up projection."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that transformers can build."""

    name: str
    architecture: str
    """transformers' model type."""
    hidden: int
    vocabulary: int
    """Rows of the token table."""
    tied: bool
    """Whether the LM head is the token table."""
    kinds: Mapping[str, int]
    """Parameters by kind (`parameter_kinds.KINDS`); a tied table counts once. They add up to `total`."""
    total: int
    """As `model.parameters()` counts. Published checkpoints also count `selection_biases`, which are buffers."""
    active: int
    """Those of one token: everything but the experts that are not chosen; tables of embeddings count in full."""
    active_without_embeddings: int
    """Of these, what a token is multiplied with: without the tables that are looked up; the LM head stays."""
    selection_biases: int
    """Numbers in routers that steer which experts are chosen and are no parameters (`e_score_correction_bias`)."""
    layers: tuple[LayerShape, ...]
    norm_bytes: Mapping[str, float]
    """dtype (fp32, bf16) -> bytes that one of the model's norms saves for the backward pass, a number that it reads."""
    largest: int
    """Parameters of the largest single tensor."""
    context: int
    """Longest sequence that the config declares, tokens; 0: it does not say."""

    def of_kind(self, kind: str) -> tuple[LayerShape, ...]:
        """The blocks of one kind, in order."""
        return tuple(layer for layer in self.layers if layer.kind == kind)

    @property
    def lm_head(self) -> int:
        """Parameters of the LM head, its own or the tied table."""
        return self.hidden * self.vocabulary


def model_shape(model: ModelConfig) -> ModelShape:
    """The shape of a recipe's model: of its declared `architecture` and `config`, else of its folder or hub id.

    A hub id is looked up in the hub's local cache, then among the files of conf/model. Nothing is downloaded, no
    weight is read. Raises `ConfigError` for a hub id that is neither cached nor declared, and for an architecture that
    transformers does not know or cannot build as a causal language model.
    """
    # here and not above: they make what this file declares, and bring in transformers
    from cascade.planning.measuring import shape_of
    from cascade.planning.shape_sources import config_of

    name, config = config_of(model)
    return shape_of(name, config)
