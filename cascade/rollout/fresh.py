"""What all engines share: a rollout that has not begun, how one grows, and which are done."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from cascade.data.chat import completion_text
from cascade.models.replay import joined
from cascade.types import Prompt, Rollout, VersionSpan

if TYPE_CHECKING:
    import torch


def fresh_rollouts(prompts: Sequence[Prompt], samples: int) -> list[Rollout]:
    """`samples` unfinished rollouts without a token for every prompt, those of a prompt side by side."""
    return [Rollout(prompt, index, (), (), (), "abort") for prompt in prompts for index in range(samples)]


class SamplingEngine(ABC):
    """An engine that goes on with rollouts; to begin them is to go on from nothing."""

    @abstractmethod
    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        """See `ports.RolloutEngine`."""

    def generate(
        self, prompts: Sequence[Prompt], samples: int, temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[list[Rollout]]:
        """See `ports.RolloutEngine`."""
        limits = [limit for _, limit in zip(prompts, max_tokens, strict=True) for _ in range(samples)]
        done = self.extend(fresh_rollouts(prompts, samples), temperature, limits, seed)
        return [done[start : start + samples] for start in range(0, len(done), samples)]


def context(rollout: Rollout) -> tuple[int, ...]:
    """The tokens that its next token is sampled after."""
    return rollout.prompt.token_ids + rollout.token_ids


def grown(
    rollout: Rollout,
    token_ids: Sequence[int],
    log_probs: Sequence[float],
    versions: Sequence[VersionSpan],
    finish_reason: Literal["stop", "length", "abort"],
    tokenizer: Any,
    routed_experts: torch.Tensor | None = None,
) -> Rollout:
    """The rollout with newly sampled tokens behind those it had.

    `routed_experts`: [N, L, K] of its tokens from the first on, where the engine has recorded them.
    """
    tokens = rollout.token_ids + tuple(token_ids)
    return dataclasses.replace(
        rollout,
        token_ids=tokens,
        sampler_log_probs=rollout.sampler_log_probs + tuple(log_probs),
        versions=merged((*rollout.versions, *versions)),
        finish_reason=finish_reason,
        text=completion_text(tokenizer, tokens),
        routed_experts=joined(rollout.routed_experts, routed_experts),
    )


def merged(spans: Sequence[VersionSpan]) -> tuple[VersionSpan, ...]:
    """Neighbouring spans of one version as one; empty spans are left out."""
    joined: list[VersionSpan] = []
    for span in spans:
        if joined and joined[-1].version == span.version:
            joined[-1] = VersionSpan(span.version, joined[-1].tokens + span.tokens)
        elif span.tokens:
            joined.append(span)
    return tuple(joined)
