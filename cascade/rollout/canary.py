"""Proof after publishing: the engine and the policy give fixed tokens the same log-probs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cascade import parallel
from cascade.config import PolicyConfig, Recipe
from cascade.data.scoring import score_sequences
from cascade.errors import CascadeError, EngineError
from cascade.ports import Policy, RolloutEngine
from cascade.types import TrainingSequence

TOKENS = 64
THRESHOLDS = {"fp32": 1e-4, "bf16": 0.15}  # mean |log pi_train - log pi_inf|, nats, by the policy's dtype
CAUSES = (
    "Look for a tied lm_head left stale, experts not repacked, a tensor that was skipped, an expert out of place, or "
    "another dtype on one side."
)


@dataclass(frozen=True)
class Canary:
    """What is checked, how the policy is fed with it, and how much may differ."""

    sequences: Sequence[TrainingSequence]
    packing: PolicyConfig
    pad_id: int
    threshold: float | None  # nats; None: that of the policy's dtype
    every: int  # publishes between checks

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: Any) -> Canary:
        """As the recipe says; sequences fit both a row of the policy and the engine, which samples a token to score."""
        rollout, packing = recipe.rollout, recipe.policy
        longest = min(packing.row_tokens, (rollout.max_model_len or packing.row_tokens + 1) - 1)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        sequences = canary_sequences(len(tokenizer), longest)
        return cls(sequences, packing, pad_id, rollout.canary_threshold, rollout.canary_every)

    def check(self, engine: RolloutEngine, policy: Policy) -> dict[str, float]:
        """See `check_canary`. Collective."""
        return check_canary(engine, policy, self.sequences, self.packing, self.pad_id, self.threshold)


def canary_sequences(vocabulary: int, longest: int, count: int = 4, seed: int = 0) -> list[TrainingSequence]:
    """`count` sequences of 64 tokens, or of `longest` where that is less; all but their first tokens are scored.

    The ids are uniform over the vocabulary, so that the tokens are spread over all experts and over many rows of the
    embedding. The same arguments give the same sequences on every rank and machine.

    Raises `EngineError` where there is no room for a token that is scored.
    """
    tokens = min(TOKENS, longest)
    if tokens < 2:
        raise EngineError(f"A canary of {tokens} token has nothing to score.", "Give it room for at least 2 tokens.")
    rng = random.Random(seed)
    mask = (0,) + (1,) * (tokens - 1)
    return [TrainingSequence(tuple(rng.randrange(vocabulary) for _ in range(tokens)), mask) for _ in range(count)]


def check_canary(
    engine: RolloutEngine,
    policy: Policy,
    sequences: Sequence[TrainingSequence],
    packing: PolicyConfig,
    pad_id: int,
    threshold: float | None = None,
) -> dict[str, float]:
    """The mean and the largest |log pi_train - log pi_inf| over the scored tokens, at temperature 1, of the worst rank.

    Collective: every rank gives the same sequences and holds its own engine to them. `packing` is how the policy is
    fed; `threshold` is in nats, by default that of the policy's dtype.

    Raises `EngineError`, on every rank, when the mean of any rank is above the threshold or not a number; and what
    the engine of any rank raised instead of scoring.
    """
    allowed = THRESHOLDS[packing.dtype] if threshold is None else threshold
    trained = score_sequences(lambda batch: policy.log_probs(batch, 1.0)[0], sequences, packing, pad_id)
    try:
        outcome = _compare(sequences, trained, engine.score(sequences, 1.0))
    except CascadeError as error:  # the other ranks wait for this one's numbers
        outcome = error
    outcomes = parallel.gather(outcome)
    if failed := next((error for error in outcomes if isinstance(error, CascadeError)), None):
        raise failed
    ranks = [numbers for numbers in outcomes if not isinstance(numbers, CascadeError)]
    worst = max(ranks, key=lambda numbers: math.inf if math.isnan(numbers[0]) else numbers[0])
    mean_gap, trainer_mean, engine_mean = worst[0], worst[2], worst[3]
    max_gap = torch.tensor([numbers[1] for numbers in ranks]).amax().item()  # not a number where one of them is not
    if not mean_gap <= allowed:  # nor is a gap that is not a number
        raise EngineError(
            f"The rollout engine does not have the policy's weights of version {engine.version}: their log-probs of "
            f"the canary differ by {mean_gap:.3g} nats on average (allowed: {allowed:.3g}) and by {max_gap:.3g} at "
            f"most; the trainer's mean log-prob is {trainer_mean:.6g}, the engine's {engine_mean:.6g}.",
            CAUSES,
        )
    return {"canary/mean_abs_log_prob_gap": mean_gap, "canary/max_abs_log_prob_gap": max_gap}


def _compare(
    sequences: Sequence[TrainingSequence], trained: Sequence[Sequence[float]], inferred: Sequence[Sequence[float]]
) -> tuple[float, float, float, float]:
    """Mean and largest gap, mean log-prob of the trainer and of the engine; nats, over all scored tokens."""
    at = torch.tensor([flag for sequence in sequences for flag in sequence.loss_mask]).bool()
    train, infer = (_flat(scores)[at] for scores in (trained, inferred))
    gaps = (train - infer).abs()
    return gaps.mean().item(), gaps.amax().item(), train.mean().item(), infer.mean().item()


def _flat(scores: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for row in scores for value in row], dtype=torch.float64)
