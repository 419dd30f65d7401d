"""Which models can be given slices of rows; all others are refused before anything is computed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from cascade.errors import EngineError

MAMBA_MIXER = "NemotronHMamba2Mixer"
MIXES_TOKENS = re.compile(
    r"mamba|recurrent|rglru|delta|rwkv|retention|shortconv|lightning|linearattention|indexer", re.IGNORECASE
)
"""Names of modules that mix tokens in another way than attention over whole documents."""


def require_sliceable(model: Any, size: int, processes: int) -> None:
    """Raises `EngineError` unless groups of `size` processes can each hold slices of the rows of this model."""
    config = model.config.get_text_config()
    if processes % size:
        raise _refused(f"it is {size}, which does not divide {processes} processes")
    if config.num_attention_heads % size:
        raise _refused(f"it is {size}, which does not divide the model's {config.num_attention_heads} attention heads")
    for name, mixer in mamba_mixers(model).items():
        if mixer.num_heads % size or mixer.n_groups % size:
            heads = f"{mixer.num_heads} heads in {mixer.n_groups} groups"
            raise _refused(f"it is {size}, which does not divide the {heads} of {name}")
    if (kind := _other_mixing(model)) is not None:
        raise _refused(f"{type(model).__name__} mixes tokens by {kind}, which is not exchanged between slices")
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.base_model.forward).parameters.values()):
        raise _refused(f"{type(model).__name__} does not hand keyword arguments on to its layers")


def mamba_mixers(model: Any) -> dict[str, Any]:
    """The Mamba-2 layers that can exchange tokens for heads, by name."""
    return {name: module for name, module in model.named_modules() if type(module).__name__ == MAMBA_MIXER}


def _other_mixing(model: Any) -> str | None:
    """What the model does along the sequence beside attention inside documents and known Mamba layers."""
    inside = tuple(f"{name}." for name in mamba_mixers(model))
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind != MAMBA_MIXER and not name.startswith(inside) and _mixes_tokens(module):
            return f"{kind} ({name})"
        if any(own.endswith("sinks") for own, _ in module.named_parameters(recurse=False)):
            return f"attention sinks ({name})"
    config = model.config.get_text_config()
    if any("chunked" in str(kind) or "sparse" in str(kind) for kind in getattr(config, "layer_types", None) or ()):
        return "attention over chunks"
    for rope in _rope_types(getattr(config, "rope_parameters", None)):
        if rope in ("dynamic", "longrope"):  # frequencies would follow from the slice's own last position
            return f"{rope} rotary embeddings"
    return None


def _mixes_tokens(module: nn.Module) -> bool:
    """By its name, unless it is a whole model: those may be named after one of their kinds of layers."""
    if isinstance(module, PreTrainedModel):
        return False
    return isinstance(module, (nn.Conv1d, nn.RNNBase)) or MIXES_TOKENS.search(type(module).__name__) is not None


def _rope_types(parameters: Any) -> Iterator[str]:
    """Of all kinds of layers, where they differ."""
    if isinstance(parameters, dict):
        if "rope_type" in parameters:
            yield str(parameters["rope_type"])
        for inner in parameters.values():
            yield from _rope_types(inner)


def _refused(why: str) -> EngineError:
    return EngineError(f"`policy.sequence_parallel` cannot be: {why}.", "Choose another, e.g. 1.")
