"""Published names: what `save_pretrained` writes and vLLM reads, one tensor at a time.

transformers holds the experts of a layer as one tensor; the published folder holds every expert on its own. Where
embeddings are tied, `lm_head.weight` is published all the same: an engine that keeps a packed copy of the head would
not notice that the embedding changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from cascade.errors import EngineError

FREE_KEYS = ("_name_or_path", "transformers_version", "dtype", "eos_token_id", "bos_token_id", "pad_token_id")
"""Keys of a model's config in which checkpoints of one architecture may differ."""


def blank_model(folder: str | Path) -> Any:
    """The model of a Hugging Face folder without memory for its weights (on the meta device): names and shapes.

    Raises `EngineError` for a model whose published tensors each need several of transformers' own.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    together = revert_weight_conversion(model, model.state_dict())
    singly = [part for name, tensor in model.state_dict().items() for part in _parts(model, name, tensor).items()]
    if {name: part.shape for name, part in singly} != {name: part.shape for name, part in together.items()}:
        raise EngineError(
            f"{type(model).__name__} is published from several tensors at once, not one by one.",
            "Choose another architecture, or teach `cascade.models.published` to gather them.",
        )
    return model


def published_weights(model: Any, weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """`Policy.weights()` under published names.

    Args:
        model: the transformers model the weights belong to, or its `blank_model`; only names are read from it.
        weights: every parameter and persistent buffer once. A tensor may be gone when the next one is asked for, so
            what is yielded from it must be used before that; experts are views of their layer's tensor.

    Raises `EngineError` for a name that the model lacks or that came before, and at the end for those that never came.
    """
    aliases = _aliases(model)
    waiting = set(model.state_dict()) - {alias for found in aliases.values() for alias in found}
    for name, tensor in weights:
        if name not in waiting:
            raise EngineError(f"{type(model).__name__} has no {name}, or it came twice.", "Check both models.")
        waiting.remove(name)
        for own in (name, *aliases.get(name, ())):
            yield from _parts(model, own, tensor).items()
    if waiting:
        some = ", ".join(sorted(waiting)[:3])
        raise EngineError(f"{len(waiting)} tensors of the model were not published, e.g. {some}.", "Check both models.")


def folder_weights(model: Any, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a Hugging Face folder; tied ones that it leaves out come behind the one they are tied to."""
    files = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
    present = {name for file in files for name in file.keys()}  # noqa: SIM118 (not a mapping)
    aliases = _aliases(model)
    for file in files:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            yield name, tensor
            yield from ((alias, tensor) for alias in aliases.get(name, ()) if alias not in present)


def same_architecture(one: Any, other: Any) -> bool:
    """Whether the weights of a model with this config fit one with the other."""
    keys = [{key: value for key, value in config.to_dict().items() if key not in FREE_KEYS} for config in (one, other)]
    return keys[0] == keys[1]


def _parts(model: Any, name: str, tensor: torch.Tensor) -> Mapping[str, torch.Tensor]:
    return revert_weight_conversion(model, {name: tensor})


def _aliases(model: Any) -> dict[str, list[str]]:
    """Name of a tensor -> the other names that are tied to it."""
    found: dict[str, list[str]] = {}
    for alias, name in model.all_tied_weights_keys.items():
        found.setdefault(name, []).append(alias)
    return found
