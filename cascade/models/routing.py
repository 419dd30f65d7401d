"""What the routers of a model in training choose: counted, kept for a loss, and replaced by what sampling chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from cascade.errors import EngineError
from cascade.models.router_hooks import Choice, Decide, RoutedLayer, watch


@dataclass
class RoutedPass:
    """One forward pass over N tokens: what its routers are given, and what they decide."""

    counted: torch.Tensor  # [N] bool, no padding
    replayed: torch.Tensor | None  # [N, L, K], -1 where nothing was recorded; None: nothing is replayed
    taken: list[torch.Tensor | None]  # of every layer, [N, K] int64: the experts that the tokens go to
    scores: list[torch.Tensor | None]  # of every layer, [N, E] with gradient, where they are kept
    changed: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    """Choices of a token in a layer that are replayed and that the live router would have made otherwise."""
    open: bool = True  # while the pass runs; a layer that is computed again in the backward pass finds it closed


class TrainingRouting:
    """The watched routers of one model in training.

    A pass is what happens between entering and leaving `forward_pass`. Layers that are computed again afterwards
    (activation checkpointing) are given the same experts and are not counted again; so a backward pass belongs to the
    latest forward pass.
    """

    def __init__(self, layers: Sequence[RoutedLayer], *, keep_scores: bool) -> None:
        """Watches the layers of a model until it is freed. `keep_scores`: for a loss on them."""
        self.layers = layers
        self.keep_scores = keep_scores
        self.loads = torch.zeros(len(layers), max((layer.experts for layer in layers), default=0), dtype=torch.int64)
        """[L, E] tokens of every expert, over the passes since this was last set to zero."""
        self.latest: RoutedPass | None = None
        for number, layer in enumerate(layers):
            watch(layer, self._decider(number))

    @contextmanager
    def forward_pass(self, counted: torch.Tensor, replayed: torch.Tensor | None) -> Iterator[None]:
        """Surrounds a forward pass over rows of tokens.

        Args:
            counted: [B, T] bool, False for padding.
            replayed: [B, T, L, K], the experts that the tokens of every layer go to, -1: those the router chooses.

        Raises `EngineError` for a record of another model.
        """
        layers = len(self.layers)
        flat = None if replayed is None else self._checked(replayed).flatten(0, 1)
        self.latest = RoutedPass(counted.flatten(), flat, [None] * layers, [None] * layers)
        try:
            yield
        finally:
            self.latest.open = False
        self._count(self.latest)

    def _decider(self, number: int) -> Decide:
        def decide(choice: Choice) -> torch.Tensor | None:
            current = self.latest
            if current is None:
                return None
            if len(choice.live) != len(current.counted):
                raise EngineError(
                    f"{self.layers[number].name} got {len(choice.live)} tokens of a micro-batch of "
                    f"{len(current.counted)}.",
                    "Set `routing_replay`, `router_aux_loss_coef` and `expert_bias_update_rate` off.",
                )
            taken = _replayed(choice.live, current.replayed, number)
            if current.open:
                current.taken[number] = choice.live if taken is None else taken
                current.scores[number] = choice.scores if self.keep_scores else None
                if taken is not None:
                    current.changed = current.changed.to(taken.device) + _changed(choice.live, taken)
            return taken

        return decide

    @torch.no_grad()
    def _count(self, done: RoutedPass) -> None:
        self.loads = self.loads.to(done.counted.device)
        for number, taken in enumerate(done.taken):
            if taken is not None:
                used = done.counted.long().unsqueeze(1).expand(taken.shape)
                self.loads[number].scatter_add_(0, taken.flatten(), used.flatten())

    def _checked(self, replayed: torch.Tensor) -> torch.Tensor:
        wanted = (len(self.layers), self.layers[0].chosen)
        experts = min(layer.experts for layer in self.layers)
        if tuple(replayed.shape[2:]) != wanted or int(replayed.max()) >= experts:
            raise EngineError(
                f"Experts were recorded for {tuple(replayed.shape[2:])} layers and choices, up to number "
                f"{int(replayed.max())}; the model in training has {wanted} and {experts} experts.",
                "Sample with the architecture that is trained.",
            )
        return replayed


def _replayed(live: torch.Tensor, replayed: torch.Tensor | None, number: int) -> torch.Tensor | None:
    """[N, K] int64: the recorded experts of a layer, and the live ones where nothing was recorded."""
    if replayed is None:
        return None
    recorded = replayed[:, number].long()
    return torch.where(recorded < 0, live, recorded)


def _changed(live: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """How many tokens go to another set of experts than the router would choose."""
    return (live.sort(1).values != taken.sort(1).values).any(1).sum()
