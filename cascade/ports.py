"""The interfaces between rooms. Implementations live in the rooms; `pipeline.py` alone chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cascade.errors import VerifierFailure
from cascade.types import Attempt, Message, PackedBatch, Pair, Prompt, Rollout, Row, Score, Split, TrainingSequence

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


@runtime_checkable
class MultiTurn(Protocol):
    """What an environment has besides when it answers the model: with the output of tools, or as a user."""

    @property
    def max_turns(self) -> int:
        """Turns of the model after which an episode ends, whatever it wrote."""
        ...

    def respond(self, row: Row, answers: Sequence[str]) -> Sequence[Message] | None:
        """The messages that follow the model's latest turn, or None when the episode is over.

        `answers`: what the model wrote in all its turns so far, without reasoning and special tokens. It follows from
        row and answers alone: nothing is remembered between calls. A call that a tool cannot carry out is answered
        by a message that says so; `VerifierFailure` ends the episode as it does in `score`.
        """
        ...


@runtime_checkable
class ScoresEpisodes(Protocol):
    """What a `MultiTurn` environment has besides when more than the last turn counts."""

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        """The reward of a whole episode, in place of `score` of its last turn."""
        ...


@runtime_checkable
class OffersTools(Protocol):
    """What an environment has besides when its prompts show tools in the form of the chat template."""

    def tools(self, row: Row) -> list[dict[str, Any]]:
        """One JSON schema a function."""
        ...


@runtime_checkable
class ReadsRecords(Protocol):
    """What an environment has besides when people can bring it rows of their own."""

    def read(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """A record of a file, in any form that people have, as `Row.data`. Raises `DataError` for a malformed one."""
        ...


@runtime_checkable
class ReadsPaths(Protocol):
    """What an environment has besides when its rows name files or folders, relative to the file that a row is in."""

    def placed(self, data: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
        """A row's data with the paths as this machine has them. `folder`: of the rows; None for rows of the hub."""
        ...


@runtime_checkable
class ScoresAttempts(Protocol):
    """What an environment has besides when it judges more than the answer: reasoning, whole turns, their ends."""

    def score_attempt(self, row: Row, attempt: Attempt) -> Score:
        """The reward of an attempt, in place of `score` and `score_episode`."""
        ...


@runtime_checkable
class ScoresGroups(Protocol):
    """What an environment has besides when attempts at one row are judged together, e.g. by comparing them."""

    def score_group(self, row: Row, attempts: Sequence[Attempt]) -> Sequence[Score | VerifierFailure]:
        """The reward of every attempt, or why it has none; in place of `score`, which judges one attempt alone."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """What an environment has besides when an answer may hold its verifier up: it is scored in worker processes."""

    @property
    def deadline_s(self) -> float:
        """Seconds a verdict may take. An answer that takes longer is the model's own fault and scores 0."""
        ...


@runtime_checkable
class Waits(Protocol):
    """What an environment has besides when scoring mostly waits for others, e.g. a judge: it is scored in threads."""

    @property
    def concurrency(self) -> int:
        """Verdicts that are waited for at once."""
        ...


@runtime_checkable
class Measures(Protocol):
    """What an environment has besides when it counts what scoring costs, e.g. what a judge was asked."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers for the dashboard, since the start, e.g. `judge/requests`."""
        ...


@runtime_checkable
class ChecksMachine(Protocol):
    """What an environment has besides when a machine may lack what it scores with, e.g. a sandbox."""

    def check_machine(self) -> None:
        """Raises a `CascadeError` that says what is missing here; called before anything is computed."""
        ...


@runtime_checkable
class ChoosesThinking(Protocol):
    """What an environment has besides when rows say themselves whether the model is asked to reason."""

    def thinking(self, row: Row) -> bool | None:
        """True or false as the row says; None: as the recipe says."""
        ...


@runtime_checkable
class GivesPairs(Protocol):
    """What an environment has besides when its rows are pairs of which one is preferred: reward models learn them."""

    @property
    def pairs_only(self) -> bool:
        """Whether it can score no answer itself: then no policy is evaluated on it."""
        ...

    def pair(self, row: Row) -> Pair:
        """The preferred conversation of a row, and the other one."""
        ...


class Trainee(Protocol):
    """A model in training, sharded by an engine."""

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients. `loss` is this rank's share of the loss summed over the global batch."""
        ...

    def balance_losses(self) -> torch.Tensor:
        """The latest micro-batch's share of every mixture-of-experts layer's load-balancing loss, with gradient; [L].

        Over micro-batches and ranks it adds up to a mean over the step's tokens, 1 where every load is even.
        """
        ...

    def step(self, learning_rate: float) -> Mapping[str, float]:
        """Clip and update; returns `grad_norm` (before clipping), `learning_rate`, and what the experts did.

        A rate of 0 moves no weight.
        """
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


class Policy(Trainee, Protocol):
    """The language model in training."""

    def log_probs(
        self, batch: PackedBatch, temperature: float = 1.0, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi_train where the mask is 1 (0 elsewhere), and the entropy there without gradient; float32 nats.

        [B, T] each; with `candidates` [B, T, K], the log-probs of those ids instead, [B, T, K].
        """
        ...


class RewardModel(Trainee, Protocol):
    """The reward model in training."""

    def rewards(self, batch: PackedBatch) -> torch.Tensor:
        """The reward at the one token of each row that the mask marks, 0 for a row without one; [B] float32."""
        ...


class RolloutEngine(Protocol):
    """Samples completions, token-in and token-out, and scores given tokens, with weights that it is handed.

    Calls may come from two threads: one that samples, and one that publishes meanwhile.
    """

    @property
    def version(self) -> int:
        """The weights it has: what the last `publish` said, 0 after `load`."""
        ...

    def load(self, folder: Path) -> None:
        """Take over the weights of a Hugging Face folder as version 0; the first call starts the engine. Collective."""
        ...

    def publish(self, policy: Policy, version: int) -> Mapping[str, float]:
        """Take over the policy's weights. Collective: every rank calls. Returns metrics, e.g. `publish/seconds`.

        Rollouts in progress are interrupted, not thrown away: they go on with the new weights.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], samples: int, temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[list[Rollout]]:
        """`samples` rollouts of at most `max_tokens[i]` tokens for prompt i, greedy at temperature 0.

        Seeded: what a rollout draws depends on (seed, row id, sample index, position), not on its neighbours.
        """
        ...

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        """Go on with interrupted rollouts, each to at most `max_tokens[i]` completion tokens in all.

        Finished ones are returned as they are. A call that `abort` ends returns unfinished rollouts.
        """
        ...

    def score(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """log pi_inf of every loss token of every sequence, nats; 0 at the other tokens. Each rank scores its own."""
        ...

    def pause(self) -> None:
        """Sample no further token until `resume`; what is in progress stays where it is."""
        ...

    def resume(self) -> None:
        """The inverse of `pause`."""
        ...

    def abort(self) -> None:
        """End the calls of `generate` and `extend` in progress; they return what they have, marked `abort`."""
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class ScoringEngine(Protocol):
    """Scores given tokens with the weights of a checkpoint."""

    def load(self, folder: Path) -> None:
        """Take over the weights of a Hugging Face folder; the first call starts the engine. Collective."""
        ...

    def score(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """log pi of every loss token of every sequence, nats; 0 at the other tokens. Each rank scores its own."""
        ...

    def top_k(
        self, sequences: Sequence[TrainingSequence], temperature: float, k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For every sequence the k likeliest ids and their log-probs at its loss tokens, [V(y), k] each."""
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class TeacherScorer(Protocol):
    """What frozen checkpoints think of sampled tokens."""

    def order(self, teachers: Sequence[str]) -> list[str]:
        """The teachers in the order that loads the fewest weights: those in memory first. The same on every rank."""
        ...

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
