"""The interfaces between rooms. Implementations live in the rooms; `pipeline.py` alone chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cascade.types import Message, PackedBatch, Prompt, Rollout, Row, Score, Split

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class Environment(Protocol):
    """Rows, prompts and rewards of one domain. Holds no torch and no mutable state."""

    domain: str

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

    def log_probs(self, batch: PackedBatch) -> torch.Tensor:
        """log pi_train of every token, `[B, T]` float32 nats, differentiable; 0 at the first token of a row."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients. `loss` is this rank's share of the loss summed over the global batch."""
        ...

    def step(self) -> Mapping[str, float]:
        """Clip, update, advance the schedule; returns `grad_norm` (before clipping) and `learning_rate`."""
        ...

    def skip(self) -> None:
        """Drop whatever gradients there are and advance the schedule without touching weights or moments."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full parameters and buffers, one at a time, under the names of `transformers`. Collective: every rank iterates."""
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
        self, prompts: Sequence[Prompt], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Rollout]]:
        """`samples` rollouts for each prompt. `temperature` 0 is greedy. A rollout depends on (seed, row id, sample index) only."""
        ...

    def publish(self, policy: Policy, version: int) -> None:
        """Take over the policy's weights. Collective: every rank calls."""
        ...


class TeacherScorer(Protocol):
    """log pi of frozen checkpoints at sampled tokens."""

    def score(self, teacher: str, sequences: Sequence[Sequence[int]], temperature: float) -> list[list[float]]:
        """log pi_teacher of every token given those before it, nats; 0 for the first token of a sequence."""
        ...


class Tracker(Protocol):
    """Somewhere metrics go. A tracker that fails to record must not stop training."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None: ...

    def close(self) -> None: ...
