"""What is handed from one room to the next: frozen dataclasses, no behaviour beyond counting.

Shape letters used everywhere: P prompts, G rollouts in a group, B rows of a micro-batch, T tokens of a row,
V vocabulary, E experts, L layers, K experts chosen per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import torch

Split = Literal["train", "validation", "test"]

DOMAINS: tuple[str, ...] = (
    "math",
    "instruction_following",
    "multiple_choice",
    "tool_use",
    "structured_output",
    "preference",
    "long_context",
    "code",
    "swe",
)
"""Capabilities that are trained, evaluated and routed by. A recipe names these and no others."""

REWARDED = "preference"
"""The domain whose answers a reward model rewards."""


class Message(TypedDict, total=False):
    """One chat turn in the OpenAI shape, e.g. `{"role": "user", "content": "17+25"}`."""

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One task of one environment, e.g. `Row("addition/17+25", "math", "addition", {"question": "17+25"})`."""

    id: str  # unique in its environment and stable over runs: sampling is seeded by it
    domain: str
    environment: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """What an answer earned, e.g. `Score(1.0, {"format": 1.0, "correct": 1.0})`."""

    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    masked: bool = False  # kept from the gradient, and counted in everything else: the reward is not to be trusted


@dataclass(frozen=True, slots=True)
class Pair:
    """Two conversations of which people prefer the first: messages that end with an answer, or plain text.

    Example: `Pair(({"role": "user", ...}, {"role": "assistant", ...}), ({"role": "user", ...}, ...))`.
    """

    chosen: Sequence[Message] | str
    rejected: Sequence[Message] | str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the model wrote in an episode, as text, e.g. `Attempt(("<think>2+2</think>4",), ("2+2",), ("4",))`."""

    turns: tuple[str, ...]  # of every turn, all of it; special tokens left out, calls of tools included
    reasoning: tuple[str, ...]  # of every turn, what was thought before the answer; empty where nothing was
    answers: tuple[str, ...]  # of every turn, what is judged
    finished: bool = True  # ended by itself, not cut for length
    token_ids: tuple[int, ...] = ()  # [T] of the last turn, where they are known
    thinking: bool = False  # the prompt asked for reasoning, by opening a block of it


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an attempt, e.g. `Verdict(Score(1.0, {"correct": 1.0}))`: a score, or why there is none."""

    score: Score | None
    status: Literal["ok", "task", "data", "infrastructure"] = "ok"  # task: the model's own fault, scored 0
    reason: str = ""  # one line for people; with a traceback below it where code raised
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row rendered to tokens, e.g. `Prompt(row, (3, 17, 9, 4), "math")`."""

    row: Row
    token_ids: tuple[int, ...]  # [T_prompt], ends with the generation prompt
    teacher: str | None = None  # identity of the one teacher of this prompt; on the sample, never in a parallel list
    thinking: bool = False  # the generation prompt opens a block of reasoning, which is not part of the answer


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """A stretch of a rollout's tokens and the weights that sampled it, e.g. 23 tokens by version 7."""

    version: int  # optimiser steps of those weights in the stage
    tokens: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled trajectory, e.g. two tokens `(5, 2)` with log-probs `(-0.1, -0.02)`, finished by a stop token."""

    prompt: Prompt
    index: int  # which of the G samples of its prompt
    token_ids: tuple[int, ...]  # [T_completion], the stop token included when there was one
    sampler_log_probs: tuple[float, ...]  # [T_completion], log pi_inf at the sampling temperature, nats; 0 if unsampled
    versions: tuple[VersionSpan, ...]  # in order, over all tokens; several where weights were published meanwhile
    finish_reason: Literal["stop", "length", "abort"]  # abort: interrupted, to be gone on with
    text: str = ""
    score: Score | None = None  # None: not scored, or a failure
    failure: str | None = None  # why there is no score
    sampled: tuple[int, ...] = ()  # [T_completion], 0 where the environment wrote; empty: the model sampled all
    earlier: tuple[Rollout, ...] = ()  # turns of the episode with a context that the chat template rewrote afterwards
    routed_experts: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """[N, L, K] integers: the experts that the first N tokens of prompt and completion went to at sampling. The last
    token is never among them, as nothing was sampled after it; None where nothing is recorded."""

    @property
    def parts(self) -> tuple[Rollout, ...]:
        """The episode in order: each part with its own prompt, and without the score, which is the last one's."""
        return (*self.earlier, self)

    @property
    def sampled_tokens(self) -> int:
        """Tokens of the whole episode that the model sampled."""
        return sum(sum(part.sampled) if part.sampled else len(part.token_ids) for part in self.parts)

    @property
    def policy_version(self) -> int:
        """The oldest weights that sampled one of its tokens."""
        return min(span.version for part in self.parts for span in part.versions)

    @property
    def reward(self) -> float:
        if self.score is None:
            raise ValueError(f"rollout {self.prompt.row.id}#{self.index} has no score: {self.failure}")
        return self.score.reward


@dataclass(frozen=True, slots=True)
class Group:
    """The G rollouts of one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """The rollouts of a step that has yet to train on them, as a checkpoint keeps them."""

    step: int
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One document to train on: a demonstration (SFT) or a rollout (RL, MOPD).

    Example: prompt of 2 and completion of 2 tokens: `token_ids (7, 8, 5, 2)`, `loss_mask (0, 0, 1, 1)`.
    """

    token_ids: tuple[int, ...]  # [T]
    loss_mask: tuple[int, ...]  # [T], 1 where the token itself is predicted in the loss
    sampler_log_probs: tuple[float, ...] = ()  # [T], 0 outside the mask; empty for SFT
    advantage: float = 0.0  # GRPO: one number a sequence, broadcast over its tokens
    teacher_log_probs: tuple[float, ...] = ()  # [T], 0 outside the mask; empty without a teacher
    reference_log_probs: tuple[float, ...] = ()  # [T], 0 outside the mask; empty without a KL term
    teacher_top: tuple[torch.Tensor, torch.Tensor] | None = None  # ids int64 and log-probs float32, [V(y), K] each
    domain: str = ""
    teacher: str | None = None  # identity of its one teacher
    routed_experts: torch.Tensor | None = field(default=None, compare=False, repr=False)  # as of `Rollout`, to replay

    @property
    def loss_tokens(self) -> int:
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch: B rows of T tokens, each row one or more documents end to end, padding at the end of the row.

    Position t of every per-token tensor speaks of the prediction OF token t (from the tokens before it), so that
    `log_probs[b, t]` belongs to `input_ids[b, t]`; the first token of a document is never in the mask.
    """

    input_ids: torch.Tensor  # [B, T] int64
    position_ids: torch.Tensor  # [B, T] int64, restarts at 0 with every document (padding is a document of its own)
    sequence_index: torch.Tensor  # [B, T] int64, which sequence of the step a token belongs to, -1 for padding
    loss_mask: torch.Tensor  # [B, T] float32, 0 or 1
    sampler_log_probs: torch.Tensor  # [B, T] float32, nats
    advantages: torch.Tensor  # [B, T] float32
    teacher_log_probs: torch.Tensor  # [B, T] float32, nats
    reference_log_probs: torch.Tensor  # [B, T] float32, nats
    token_weight: torch.Tensor  # [B, T] float32: a token's share of the whole step's loss; 0 outside the mask
    teacher_top_ids: torch.Tensor | None = None  # [B, T, K] int64, 0 outside the mask
    teacher_top_log_probs: torch.Tensor | None = None  # [B, T, K] float32, nats
    context_weight: torch.Tensor | None = None  # [B, T] float32: 1 / all tokens of the whole step; 0 for padding
    routed_experts: torch.Tensor | None = None  # [B, T, L, K] int16, chosen at sampling; -1 where none is recorded

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        moved = {f.name: t.to(device) for f in fields(self) if (t := getattr(self, f.name)) is not None}
        return PackedBatch(**moved)


@dataclass(frozen=True, slots=True)
class SplitScore:
    """Mean score of one domain on one split, e.g. `SplitScore(0.61, 0.028, 300)`."""

    mean: float
    stderr: float  # standard error of the mean over prompts
    n: int  # prompts
    pass_at_k: float | None = None  # share of prompts with at least one of k samples right; None for k = 1
    k: int = 1

    @property
    def interval(self) -> float:
        """Half the width of the 95 % confidence interval of the mean, e.g. 0.055."""
        return 1.96 * self.stderr

    @property
    def pass_at_k_interval(self) -> float:
        """The same for pass@k, from the variance p (1 - p) of a yes or no per prompt."""
        share = self.pass_at_k or 0.0
        return 1.96 * (share * (1 - share) / self.n) ** 0.5


@dataclass(frozen=True, slots=True)
class PairScore:
    """How often a reward model prefers what people preferred, beside what the lengths alone would say.

    Each is a mean over pairs of 1 for right, 0 for wrong and one half for a tie.
    """

    accuracy: SplitScore  # of the reward model
    longer: SplitScore  # of preferring the longer side
    length_only: SplitScore  # of preferring by length, the way that is right more often in the training pairs
    prefers: Literal["longer", "shorter"]  # that way
    above_length: SplitScore  # accuracy - length_only, pair by pair
    margin: float  # mean of the chosen reward less the rejected one


PairScores = Mapping[str, Mapping[str, PairScore]]
"""split -> domain -> score of a reward model."""


Scores = Mapping[str, Mapping[str, SplitScore]]
"""split -> domain -> score."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate of one stage, e.g. `GateResult("max_drop", "math", 0.05, 0.12, False, "warn")`."""

    rule: str
    domain: str
    threshold: float
    value: float
    passed: bool
    action: Literal["warn", "stop", "rollback"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A registered set of weights."""

    identity: str  # hex hash of what made it
    stage: str
    step: int
    kind: str  # sft, rl, mopd, reward_model, base
    parent: str | None  # identity
    path: str  # Hugging Face folder
    config_hash: str
    data_fingerprint: str
    weights_sha256: str
    versions: Mapping[str, str]
    created_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a finished stage hands to the pipeline."""

    name: str
    kind: str
    identity: str
    parent: str | None  # stage name
    steps: int
    wall_s: float
    teachers: Mapping[str, str]  # domain -> checkpoint identity
    scores: Scores
    gates: Sequence[GateResult] = ()
