"""The experts that a model chooses while it samples, kept so that training can choose the same.

Rollout routing replay (Ma et al. 2025, arXiv:2510.11370): sampler and trainer compute the same router scores by other
kernels, in another batch or precision; where two experts are close they choose differently, and log-probs jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cascade.errors import EngineError
from cascade.models.router_hooks import Choice, RoutedLayer, routed_layers, watch


class RoutingRecorder:
    """Watches every mixture-of-experts layer of a model that samples, in evaluation mode."""

    def __init__(self, model: Any) -> None:
        """Raises `EngineError` for a model without experts, and for one whose choice cannot be seen."""
        self.layers = routed_layers(model)
        if not self.layers or any(layer.chooser is None for layer in self.layers):
            raise EngineError(
                f"{type(model).__name__} has no experts whose choice can be recorded.", "Set `routing_replay=false`."
            )
        if len({layer.chosen for layer in self.layers}) > 1:
            raise EngineError(
                f"{type(model).__name__} has layers that choose differently many experts.",
                "Set `routing_replay=false`.",
            )
        self.dtype = smallest_dtype(max(layer.experts for layer in self.layers))
        self._passes: list[list[torch.Tensor]] = [[] for _ in self.layers]  # of every layer, [N, K] a pass
        for number, layer in enumerate(self.layers):
            self._record(number, layer)

    def take(self, rows: int) -> torch.Tensor:
        """What was chosen since the last call, in passes over `rows` rows one behind the other: [rows, T, L, K]."""
        layers = [torch.cat([one.unflatten(0, (rows, -1)) for one in passes], 1) for passes in self._passes]
        self.forget()
        return torch.stack(layers, 2)

    def forget(self) -> None:
        """Drops what was chosen so far."""
        for passes in self._passes:
            passes.clear()

    def _record(self, number: int, layer: RoutedLayer) -> None:
        def see(choice: Choice) -> None:
            self._passes[number].append(choice.live.to(self.dtype))

        watch(layer, see)


def smallest_dtype(experts: int) -> torch.dtype:
    """What the numbers of so many experts fit in."""
    return torch.uint8 if experts <= 256 else torch.int16


def joined(had: torch.Tensor | None, new: torch.Tensor | None) -> torch.Tensor | None:
    """A rollout's record [N, L, K] with that of a later pass over all its tokens: the first that has a token counts.

    A rollout that was interrupted is computed anew, perhaps by other weights; the token behind position n was sampled
    after the first time that n was computed.
    """
    if had is None or new is None:
        return new if had is None else had
    return torch.cat([had, new[len(had) :]])


def rows_of(chosen: torch.Tensor, contexts: Sequence[int], sampled: Sequence[int]) -> list[torch.Tensor]:
    """The records of rows that were sampled together.

    Args:
        chosen: [B, T, L, K] over all positions; contexts are padded on their left to the longest.
        contexts: tokens of every row's context.
        sampled: tokens that were sampled for every row and belong to it; the last one was never computed.

    Returns:
        [context + sampled - 1, L, K] a row, on the CPU.
    """
    longest = max(contexts)
    chosen = chosen.cpu()
    return [
        row[longest - context : longest + new - 1].clone()  # a view would keep, and pickle, the whole batch
        for row, context, new in zip(chosen, contexts, sampled, strict=True)
    ]
