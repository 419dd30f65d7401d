"""One bijection between the three names of expert weights: transformers' own, the published ones and AutoEP's.

Shapes: E experts in a layer, N processes that share them, I an expert's inner width, H the hidden width.

| | gated (qwen3_moe) | not gated (nemotron_h) |
|---|---|---|
| whole, transformers' own | `experts.gate_up_proj` [E, 2I, H], `experts.down_proj` [E, H, I] | `experts.up_proj` [E, I, H], `experts.down_proj` [E, H, I] |
| published, of `save_pretrained` | `experts.5.gate_proj.weight` [I, H], `.up_proj.weight`, `.down_proj.weight` | `experts.5.up_proj.weight`, `.down_proj.weight` |
| sharded, AutoEP's of one process | `experts.w1` (gate) and `w3` (up) [E/N, I, H], `w2` (down) [E/N, H, I] | `w1` (up) and `w2` (down); `w3` is empty |

Process r of the N holds experts r E/N to (r + 1) E/N - 1. Routers move from `gate` to `router.gate`.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.core_model_loading import revert_weight_conversion

from cascade.errors import EngineError
from cascade.models.moe_blocks import moe_blocks

GATED = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
NOT_GATED = {"up_proj": ("w1",), "down_proj": ("w2",)}
EMPTY = "w3"  # AutoEP's checkpoints ask for it where experts have no gate; [E/N, 0, H]


@dataclass(frozen=True)
class ExpertTensor:
    """One tensor of a layer's experts: `parts` are AutoEP's, laid one behind the other along dimension 1."""

    whole: str  # model.layers.3.mlp.experts.gate_up_proj
    shape: tuple[int, int, int]  # [E, ., .]
    parts: tuple[str, ...]  # model.layers.3.mlp.experts.w1, ...w3


@dataclass(frozen=True)
class ExpertSlot:
    """Where one published tensor lies in a whole one: `part` of `parts` along dimension 1 of expert `expert`."""

    whole: str
    expert: int
    part: int
    parts: int


class ExpertNames:
    """The bijection of one model."""

    def __init__(self, model: Any) -> None:
        """Reads names and shapes of a transformers model, or of its `blank_model`; not of one that is sharded.

        Raises `EngineError` for experts with other tensors than the two kinds above, and for names that meet.
        """
        self.tensors = [tensor for block in moe_blocks(model) for tensor in _tensors(block.experts_name, block.experts)]
        self.whole = set(model.state_dict())
        self._moved = {f"{block.router_name}.": f"{block.name}.router.gate." for block in moe_blocks(model)}
        pairs = [(self.sharded_name(name), name) for name in sorted(self.whole - {t.whole for t in self.tensors})]
        pairs += [(part, tensor.whole) for tensor in self.tensors for part in tensor.parts]
        self._whole_of = dict(pairs)
        if len(self._whole_of) < len(pairs):
            raise EngineError(
                f"Two tensors of {type(model).__name__} have one name under expert parallelism.",
                "Teach `cascade.models.expert_names` its structure.",
            )
        self._tensor_of = {part: tensor for tensor in self.tensors for part in tensor.parts}

    def sharded_name(self, whole: str) -> str:
        """AutoEP's name of a tensor that is not of experts: itself, but for routers."""
        for own, moved in self._moved.items():
            if whole.startswith(own):
                return moved + whole.removeprefix(own)
        return whole

    def whole_name(self, sharded: str) -> str:
        """transformers' name of AutoEP's `sharded`. Raises `EngineError` for a name that is not of this model."""
        if sharded not in self._whole_of:
            raise EngineError(f"{sharded} has no name of transformers' own.", "Check the model and its sharding.")
        return self._whole_of[sharded]

    def tensor(self, sharded: str) -> ExpertTensor | None:
        """The tensor of experts that `sharded` is a part of; None for every other name."""
        return self._tensor_of.get(sharded)

    def check_sharded(self, names: Iterable[str]) -> None:
        """Raises `EngineError` unless the names are those of the sharded model, each once."""
        found = [name for name in names if not self.is_empty(name)]
        twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
        unknown, missing = sorted(set(found) - set(self._whole_of)), sorted(set(self._whole_of) - set(found))
        for problem, of in (("come twice", twice), ("are unknown", unknown), ("are missing", missing)):
            if of:
                raise EngineError(
                    f"{len(of)} names of the sharded model {problem}, e.g. {of[0]}.",
                    "Teach `cascade.models.expert_names` the structure of this version of DeepSpeed.",
                )

    def is_empty(self, name: str) -> bool:
        """Whether this is AutoEP's empty third tensor of experts without a gate, which has no other name."""
        block, _, last = name.rpartition(".")
        return last == EMPTY and name not in self._tensor_of and f"{block}.w1" in self._tensor_of


def split(tensor: ExpertTensor, values: torch.Tensor, rank: int, size: int) -> Mapping[str, torch.Tensor]:
    """What process `rank` of `size` holds of a whole tensor [E, ., .], under AutoEP's names; views."""
    local = values.chunk(size)[rank]
    return dict(zip(tensor.parts, local.chunk(len(tensor.parts), dim=1), strict=True))


def join(tensor: ExpertTensor, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The inverse of `split` on one process: [E/N, ., .]. The whole is that of every process along dimension 0."""
    own = [parts[name] for name in tensor.parts]
    return own[0] if len(own) == 1 else torch.cat(own, dim=1)


def published_slots(model: Any) -> Mapping[str, ExpertSlot]:
    """Published name -> its place, for every tensor of experts.

    transformers itself is asked: numbered markers go through its own conversion. Raises `EngineError` for a published
    name that comes twice.
    """
    slots: dict[str, ExpertSlot] = {}
    for tensor in ExpertNames(model).tensors:
        experts, parts = tensor.shape[0], len(tensor.parts)
        markers = torch.arange(experts * parts).view(experts, parts, 1)
        for name, marker in revert_weight_conversion(model, {tensor.whole: markers}).items():
            if name in slots or marker.numel() != 1:
                raise EngineError(
                    f"{name} is published twice or not for one expert.", "Check the transformers version."
                )
            slots[name] = ExpertSlot(tensor.whole, int(marker) // parts, int(marker) % parts, parts)
        missing = experts * parts - sum(slot.whole == tensor.whole for slot in slots.values())
        if missing:
            raise EngineError(f"{missing} parts of {tensor.whole} have no published name.", "Check transformers.")
    return slots


def whole_weights(model: Any, published: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The inverse of `published_weights`: whole tensors under transformers' names, each as soon as it is complete.

    Args:
        model: the transformers model or its `blank_model`; only names and shapes are read from it.
        published: every published tensor once.

    Raises `EngineError` for a name that is unknown or comes twice, and at the end for those that never came.
    """
    slots = published_slots(model)
    shapes = {tensor.whole: tensor.shape for tensor in ExpertNames(model).tensors}
    names = set(model.state_dict()) - set(shapes)
    others = {new: old for old in names for new in revert_weight_conversion(model, {old: torch.empty(0)})}
    waiting = set(slots) | set(others)
    growing: dict[str, torch.Tensor] = {}
    left = {whole: sum(slot.whole == whole for slot in slots.values()) for whole in shapes}
    for name, tensor in published:
        if name not in waiting:
            raise EngineError(f"{type(model).__name__} has no published {name}, or it came twice.", "Check the folder.")
        waiting.remove(name)
        if name in others:
            yield others[name], tensor
            continue
        slot = slots[name]
        if slot.whole not in growing:
            growing[slot.whole] = tensor.new_empty(shapes[slot.whole])
        growing[slot.whole][slot.expert].chunk(slot.parts)[slot.part].copy_(tensor)
        left[slot.whole] -= 1
        if not left[slot.whole]:
            yield slot.whole, growing.pop(slot.whole)
    if waiting:
        some = ", ".join(sorted(waiting)[:3])
        raise EngineError(f"{len(waiting)} published tensors never came, e.g. {some}.", "Check the folder.")


def _tensors(name: str, experts: Any) -> list[ExpertTensor]:
    shapes = {own: tuple(parameter.shape) for own, parameter in experts.named_parameters(recurse=False)}
    kind = next((kind for kind in (GATED, NOT_GATED) if set(kind) == set(shapes)), None)
    if kind is None:
        raise EngineError(
            f"The experts of {name} are {', '.join(shapes) or 'modules of their own'}, which have no names here.",
            "Teach `cascade.models.expert_names` their structure.",
        )
    return [
        ExpertTensor(f"{name}.{own}", shapes[own], tuple(f"{name}.{part}" for part in parts))
        for own, parts in kind.items()
    ]
