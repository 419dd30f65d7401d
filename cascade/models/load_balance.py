"""The selection bias of routers: a number an expert that is added to its score when experts are chosen, and only then.

DeepSeek-V3, Nemotron-3 and their kin keep it as a buffer, which no gradient reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cascade.errors import EngineError
from cascade.models.router_hooks import RoutedLayer


@dataclass(frozen=True)
class SelectionBias:
    """The bias of one layer's router, e.g. the buffer `e_score_correction_bias` of its gate."""

    layer: str
    owner: nn.Module
    name: str  # of the buffer in its owner, which makes a new one when it moves to another device

    @property
    def value(self) -> torch.Tensor:
        """[E] float32. Raises `EngineError` in a precision that steps of 0.001 would be lost in."""
        value = getattr(self.owner, self.name)
        if value.dtype != torch.float32:
            raise EngineError(
                f"The selection bias of {self.layer} is in {value.dtype}, which small updates would be lost in.",
                "Set `expert_bias_update_rate=0` or `policy.dtype=fp32`.",
            )
        return value

    @torch.no_grad()
    def move(self, step: torch.Tensor) -> None:
        """Adds `step`, [E]."""
        self.value.add_(step.to(self.value.device))


def selection_biases(layers: Sequence[RoutedLayer]) -> list[SelectionBias]:
    """The bias of every layer's router. Raises `EngineError` for a layer without one, or as `value` does."""
    return [_selection_bias(layer) for layer in layers]


def _selection_bias(layer: RoutedLayer) -> SelectionBias:
    found = [
        SelectionBias(layer.name, owner, name)
        for owner in layer.block.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if "bias" in name and tuple(buffer.shape) == (layer.experts,) and name not in owner._non_persistent_buffers_set
    ]
    if len(found) != 1:
        raise EngineError(
            f"The router of {layer.name} ({type(layer.router).__name__}) has no selection bias to update.",
            "Set `expert_bias_update_rate=0`, or balance the experts by `router_aux_loss_coef`.",
        )
    _ = found[0].value  # its precision
    return found[0]
