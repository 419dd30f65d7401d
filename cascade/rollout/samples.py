"""Rollouts on their way through an engine that takes requests: what each has so far, and which make one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cascade.errors import EngineError
from cascade.models.replay import joined
from cascade.rollout.fresh import context, grown
from cascade.rollout.noise import rollout_key
from cascade.types import Rollout, VersionSpan

if TYPE_CHECKING:
    import torch

SEEDS = 2**62  # so that a seed plus a sample's index is still a 64-bit integer


@dataclass
class Sample:
    """A rollout that grows, and whether it is in the engine at the moment."""

    rollout: Rollout
    limit: int  # completion tokens in all
    finish_reason: Literal["stop", "length", "abort"] = "abort"
    running: bool = False
    token_ids: list[int] = field(default_factory=list)  # those sampled since
    log_probs: list[float] = field(default_factory=list)  # nats
    versions: list[VersionSpan] = field(default_factory=list)  # one a token
    routed_experts: torch.Tensor | None = None  # [N, L, K], of the tokens from the rollout's first on

    @property
    def length(self) -> int:
        """Completion tokens so far."""
        return len(self.rollout.token_ids) + len(self.token_ids)

    def context(self) -> list[int]:
        """The tokens that the next one is sampled after."""
        return [*context(self.rollout), *self.token_ids]

    def add(self, token_id: int, log_prob: float, version: int) -> None:
        """One more token."""
        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.versions.append(VersionSpan(version, 1))

    def record(self, routed_experts: torch.Tensor) -> None:
        """The experts that all tokens but the last went to; of those that are known already the first counts."""
        self.routed_experts = joined(self.routed_experts, routed_experts)

    def end(self, reason: str) -> None:
        """No more tokens. Raises `EngineError` for a reason that no rollout can have."""
        if reason != "stop" and reason != "length":
            raise EngineError(f"The engine ended a rollout with `{reason}`.", "Read the engine's own log.")
        self.finish_reason, self.running = reason, False

    def settled(self, tokenizer: Any) -> Rollout:
        """The rollout with what is new."""
        new = (self.token_ids, self.log_probs, self.versions)
        return grown(self.rollout, *new, self.finish_reason, tokenizer, self.routed_experts)

    def seed(self, seed: int) -> int:
        """What the next tokens draw from. Samples of a prompt that have not begun have consecutive seeds."""
        row, begun = self.rollout.prompt.row.id, self.length
        if begun:
            return rollout_key(seed, f"{row}\x00{begun}", self.rollout.index) % SEEDS
        return rollout_key(seed, row, 0) % SEEDS + self.rollout.index


def as_requests(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Neighbours that have not begun and differ in their index only, one list each; every other sample by itself."""
    request: list[Sample] = []
    for sample in samples:
        if request and not _alike(request[-1], sample):
            yield request
            request = []
        request.append(sample)
    if request:
        yield request


def _alike(one: Sample, following: Sample) -> bool:
    return (
        one.rollout.prompt is following.rollout.prompt
        and one.rollout.index + 1 == following.rollout.index
        and one.limit == following.limit
        and one.length == following.length == 0
    )
