"""What each parameter of a causal language model is for, told from where it stands in the module tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

KINDS = ("embeddings", "attention", "mamba", "routed_experts", "shared_experts", "router", "mlp", "norms", "other")
"""Every parameter is of one kind. `embeddings`: tables of tokens and positions and an LM head of its own. `mamba`: all
mixers that carry a state (Mamba 1 and 2, gated delta rule, short convolutions). `norms`: every normalisation's weights,
those inside a mixer too. `router`: what chooses experts. `mlp`: dense feed-forward blocks. `other`: the rest, e.g. a
vision tower or the latent projections around experts."""

RECURRENT = re.compile(
    r"Mixer$|Mamba(Block|Layer)?$|DeltaNet|DeltaAttention|ShortConv|RecurrentBlock|LSTM\w*Layer|Rwkv\w*Attention|"
    r"LightningAttention"
)
ATTENTION = re.compile(r"Attention|Attn|MLA$|MoA$")
EXPERTS = re.compile(r"Experts$")
ROUTER = re.compile(r"Router|TopKGat|TopkGat|MoEGate|MoeGate(?!d)")
FEED_FORWARD = re.compile(r"MLP|Mlp|FeedForward|FFN|SwiGLU|GLU")
BLOCK = re.compile(r"Layer$|Block$|ModuleList|Model$|ForCausalLM|ForConditionalGeneration")
BARE = re.compile(r"\.(fc1|fc2|fc_in|fc_out|gate_proj|up_proj|down_proj)\.")
"""Names of a feed-forward block's linear layers where a decoder layer holds them without a module of their own."""
ASIDE = re.compile(r"(^|\.)(vision_\w+|visual|audio_\w+|multi_modal_projector|mtp\w*)(\.|$)")


def kinds_of(model: nn.Module) -> dict[str, str]:
    """Name of every parameter (tied ones once) -> its kind, one of `KINDS`."""
    modules = dict(model.named_modules())
    tables = _tables(model)
    return {name: _kind(name, parameter, modules, tables) for name, parameter in model.named_parameters()}


def count_kinds(model: nn.Module) -> dict[str, int]:
    """Kind -> parameters of it, for every kind of `KINDS`. They add up to all parameters of the model."""
    counted: dict[str, int] = dict.fromkeys(KINDS, 0)
    parameters = dict(model.named_parameters())
    for name, kind in kinds_of(model).items():
        counted[kind] += parameters[name].numel()
    return counted


def _tables(model: Any) -> set[int]:
    """Ids of the parameters of the token table and of the LM head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {id(parameter) for module in ends if module is not None for parameter in module.parameters()}


def _kind(name: str, parameter: nn.Parameter, modules: Mapping[str, nn.Module], tables: set[int]) -> str:
    if ASIDE.search(name):
        return "other"
    owner = modules[name.rpartition(".")[0]]
    if id(parameter) in tables or isinstance(owner, nn.Embedding):
        return "embeddings"
    if "Norm" in type(owner).__name__:
        return "norms"
    if re.search(r"\.shared_(experts?|mlp)(_gate)?\.", name):
        return "shared_experts"
    for path, kind in _ancestors(name, modules):
        if kind == "mixture":  # what is neither an expert nor the router's own module, e.g. a plain linear router
            return "router" if re.fullmatch(r"(gate|router|gating)(\..*)?", name[len(path) + 1 :]) else "other"
        if kind:
            return kind
    return "mlp" if BARE.search(name) else "other"


def _ancestors(name: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str | None]]:
    """Paths of the modules that hold a parameter, innermost first, and what their classes say they are."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        yield path, _role(path, modules[path])


def _role(path: str, module: nn.Module) -> str | None:
    kind = type(module).__name__
    if ROUTER.search(kind):
        return "router"
    if EXPERTS.search(kind) or re.search(r"(^|\.)experts(\.\d+)?$", path):
        return "routed_experts"
    if path and _holds_experts(module):
        return "mixture"
    if RECURRENT.search(kind):
        return "mamba"
    if BLOCK.search(kind):
        return None
    if ATTENTION.search(kind):
        return "attention"
    return "mlp" if FEED_FORWARD.search(kind) else None


def _holds_experts(module: nn.Module) -> bool:
    """Whether this is the block of a mixture of experts: the experts are its own children."""
    return any(name == "experts" for name, _ in module.named_children())
