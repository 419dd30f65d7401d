"""The interfaces between rooms. Implementations live in the rooms; `pipeline.py` alone chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cascade.types import Message, PackedBatch, Prompt, Rollout, Row, Score, Split, TrainingSequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class Environment(Protocol):
    """Rows, prompts and rewards of one domain. Holds no torch and no mutable state."""

    @property
    def domain(self) -> str:
        """The capability it trains and is evaluated under."""
        ...

    def rows(self, split: Split) -> Sequence[Row]:
        """All rows of a split, in a fixed order; the three splits share no row."""
        ...

    def messages(self, row: Row) -> list[Message]:
        """The prompt as chat messages."""
        ...

    def gold(self, row: Row) -> str:
        """An answer that scores 1; also what SFT demonstrates."""
        ...

    def score(self, row: Row, answer: str) -> Score:
        """The reward of an answer. Raises `VerifierFailure` when it cannot be scored."""
        ...


class Policy(Protocol):
    """The model in training, sharded by an engine."""

    def log_probs(
        self, batch: PackedBatch, temperature: float = 1.0, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi_train where the mask is 1 (0 elsewhere), and the entropy there without gradient; float32 nats.

        [B, T] each; with `candidates` [B, T, K], the log-probs of those ids instead, [B, T, K].
        """
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients. `loss` is this rank's share of the loss summed over the global batch."""
        ...

    def step(self, learning_rate: float) -> Mapping[str, float]:
        """Clip and update; returns `grad_norm` (before clipping) and `learning_rate`. A rate of 0 moves no weight."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full parameters and persistent buffers, one at a time, under the names of `transformers`. Collective."""
        ...

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Everything needed to go on bit-exactly. Collective."""
        ...

    def load(self, folder: Path) -> Mapping[str, Any]:
        """The inverse of `save`; returns `state`. Collective."""
        ...


class RolloutEngine(Protocol):
    """Samples completions, token-in and token-out."""

    version: int

    def generate(
        self, prompts: Sequence[Prompt], samples: int, temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[list[Rollout]]:
        """`samples` rollouts of at most `max_tokens[i]` tokens for prompt i, greedy at temperature 0.

        What a rollout draws depends on (seed, row id, sample index, position) only, not on its batch.
        """
        ...

    def publish(self, policy: Policy, version: int) -> None:
        """Take over the policy's weights. Collective: every rank calls."""
        ...


class TeacherScorer(Protocol):
    """What frozen checkpoints think of sampled tokens."""

    def score(self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """log pi_teacher of every loss token of every sequence, nats; 0 at the other tokens."""
        ...

    def top_k(
        self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float, k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For every sequence the teacher's k likeliest ids and their log-probs at its loss tokens, [V(y), k] each."""
        ...


class Tracker(Protocol):
    """Somewhere metrics go. A tracker that fails to record must not stop training."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None: ...

    def close(self) -> None: ...
