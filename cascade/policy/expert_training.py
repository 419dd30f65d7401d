"""The experts of a model in training: their loads on the dashboard, an even load, and the replay of sampled choices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cascade import parallel
from cascade.algorithms.load_balancing import balance_loss, bias_steps, max_violation, unused_share
from cascade.config import PolicyConfig, StageBase
from cascade.errors import EngineError
from cascade.models.load_balance import SelectionBias, selection_biases
from cascade.models.router_hooks import RoutedLayer, routed_layers
from cascade.models.routing import TrainingRouting
from cascade.types import PackedBatch

LOGGER = logging.getLogger(__name__)


class ExpertTraining:
    """Belongs to one engine. A dense model has no experts: then nothing is measured and nothing may be asked for."""

    def __init__(self, model: Any, stage: StageBase, policy: PolicyConfig) -> None:
        """Watches the routers of `model`, before an engine shards it.

        Raises `EngineError` for a balance or a replay that the architecture has nothing for.
        """
        self.rate = stage.expert_bias_update_rate
        layers, self.biases = _checked(model, stage)
        self.routing = TrainingRouting(layers, keep_scores=stage.router_aux_loss_coef > 0)
        self.sharing = policy.sequence_parallel
        self._batch: PackedBatch | None = None  # of the latest forward pass
        self._replay = torch.zeros(4, dtype=torch.float64)  # choices: replayed, changed; tokens: all, missing

    @property
    def layers(self) -> list[RoutedLayer]:
        return list(self.routing.layers)

    @contextmanager
    def forward_pass(self, batch: PackedBatch) -> Iterator[None]:
        """Surrounds the model's forward pass over `batch`; without gradients nothing is counted or replayed."""
        if not self.layers or not torch.is_grad_enabled():
            self.routing.latest = self._batch = None
            yield
            return
        self._batch = batch
        real = self._own(batch.sequence_index, -1) >= 0
        replayed = None if batch.routed_experts is None else self._own(batch.routed_experts, -1)
        with self.routing.forward_pass(real, replayed):
            yield
        self._count_replay(batch)

    def balance_losses(self) -> torch.Tensor:
        """This micro-batch's share of every layer's balance loss (`algorithms.load_balancing.balance_loss`), [L].

        A document weighs as much as its tokens among those of the step. Of the latest forward pass, with gradient.
        """
        latest, batch = self.routing.latest, self._batch
        if latest is None or batch is None or batch.context_weight is None or not self.routing.keep_scores:
            raise TypeError("a balance loss needs its coefficient, and a forward pass with gradients over a batch")
        documents, weights = batch.sequence_index.flatten(), batch.context_weight.flatten()
        each = zip(latest.scores, latest.taken, strict=True)
        return torch.stack(
            [
                balance_loss(scores, taken, documents, weights)
                for scores, taken in each
                if scores is not None and taken is not None
            ]
        )

    def after_step(self, *, moved: bool) -> dict[str, float]:
        """What the experts did in the step, over all ranks; their selection biases move where the weights have.

        Collective. `experts/LAYER/max_violation`: largest load over mean load; `experts/LAYER/unused`: share of
        experts without a token; both as means over layers besides. `replay/changed`: share of replayed choices that
        the live router would have made otherwise; `replay/missing`: share of the tokens that something follows in
        their document which had no recorded choice.
        """
        if not self.layers:
            return {}
        loads = parallel.sum_over_ranks(self.routing.loads.clone())  # [L, E]
        replay = parallel.sum_over_ranks(self._replay.clone()).tolist()
        self.routing.latest = self._batch = None  # what they hold is large
        self.routing.loads.zero_()
        self._replay.zero_()
        if self.biases and moved:
            for bias, step in zip(self.biases, bias_steps(loads, self.rate), strict=True):
                bias.move(step)
        return {**_load_metrics(self.layers, loads), **_replay_metrics(*replay)}

    @torch.no_grad()
    def _count_replay(self, batch: PackedBatch) -> None:
        latest = self.routing.latest
        if batch.routed_experts is None or latest is None:
            return
        documents = batch.sequence_index
        following = torch.nn.functional.pad(documents[:, 1:], (0, 1), value=-1)
        recorded = self._own((batch.routed_experts[:, :, 0, 0] >= 0) & (documents >= 0), 0)
        followed = self._own((documents >= 0) & (documents == following), 0)
        counts = (
            recorded.sum() * len(self.layers),
            latest.changed,
            followed.sum(),
            (followed & ~recorded).sum(),
        )
        self._replay += torch.tensor([float(count) for count in counts], dtype=torch.float64)

    def _own(self, whole: torch.Tensor, filling: int) -> torch.Tensor:
        """This process's slice of [B, T, ...] where several share a row: equally long ones, the last one filled up."""
        share = -(-whole.shape[1] // self.sharing)
        start = parallel.rank() % self.sharing * share
        own = whole[:, start : start + share]
        missing = own.new_full((len(own), share - own.shape[1], *own.shape[2:]), filling)
        return torch.cat([own, missing], 1)


def check_expert_keys(folder: Path, stages: Iterable[StageBase]) -> None:
    """Raises `EngineError` for the first stage that asks for a balance or a replay the model in `folder` cannot have.

    Before anything is trained; only the model's config is read.
    """
    asking = [stage for stage in stages if _asked(stage)]
    if asking:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        for stage in asking:
            _checked(model, stage)


def _checked(model: Any, stage: StageBase) -> tuple[list[RoutedLayer], list[SelectionBias]]:
    """The layers to watch, and the biases to move. Raises `EngineError` for what the architecture cannot do."""
    layers = _watchable(model, _asked(stage))
    blind = [layer for layer in layers if stage.router_aux_loss_coef and not layer.scores_all]
    if blind:
        raise EngineError(
            f"The router of {blind[0].name} ({type(blind[0].router).__name__}) does not score all experts, which "
            "`router_aux_loss_coef` needs.",
            "Set `router_aux_loss_coef=0`.",
        )
    return layers, selection_biases(layers) if stage.expert_bias_update_rate else []


def _asked(stage: StageBase) -> list[str]:
    """The keys of the stage that need a mixture of experts."""
    keys = ("router_aux_loss_coef", "expert_bias_update_rate", "routing_replay")
    return [key for key in keys if getattr(stage, key, None)]


def _watchable(model: Any, asked: list[str]) -> list[RoutedLayer]:
    """The layers that can be watched: all or none. Raises `EngineError` when none can and something is asked."""
    layers = routed_layers(model)
    what = ", ".join(f"`{key}`" for key in asked)
    if not layers:
        if asked:
            raise EngineError(f"{type(model).__name__} has no experts, which {what} needs.", f"Remove {what}.")
        return []
    alike = len({(layer.experts, layer.chosen) for layer in layers}) == 1
    if alike and all(layer.chooser for layer in layers):
        return layers
    problem = f"How {type(model).__name__} chooses its experts cannot be seen"
    if asked:
        raise EngineError(f"{problem}, which {what} needs.", f"Remove {what}.")
    LOGGER.warning("%s: their loads are not on the dashboard.", problem)
    return []


def _load_metrics(layers: list[RoutedLayer], loads: torch.Tensor) -> dict[str, float]:
    if not loads.sum():
        return {}
    violations, unused = max_violation(loads), unused_share(loads)
    each: dict[str, float] = {}
    for layer, violation, share in zip(layers, violations.tolist(), unused.tolist(), strict=True):
        each[f"experts/{layer.number}/max_violation"] = violation
        each[f"experts/{layer.number}/unused"] = share
    means = {"experts/max_violation": violations.mean().item(), "experts/unused": unused.mean().item()}
    return {**means, **each}


def _replay_metrics(replayed: float, changed: float, tokens: float, missing: float) -> dict[str, float]:
    if not tokens:
        return {}
    return {"replay/changed": changed / max(replayed, 1.0), "replay/missing": missing / tokens}
