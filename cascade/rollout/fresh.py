"""What all engines share: a rollout that has not begun, how one grows, and which are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from cascade.data.chat import completion_text
from cascade.types import Prompt, Rollout, VersionSpan


def fresh_rollouts(prompts: Sequence[Prompt], samples: int) -> list[Rollout]:
    """`samples` unfinished rollouts without a token for every prompt, those of a prompt side by side."""
    return [Rollout(prompt, index, (), (), (), "abort") for prompt in prompts for index in range(samples)]


def by_prompt(rollouts: Sequence[Rollout], samples: int) -> list[list[Rollout]]:
    """The inverse of `fresh_rollouts`: one list a prompt."""
    return [list(rollouts[start : start + samples]) for start in range(0, len(rollouts), samples)]


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
) -> Rollout:
    """The rollout with newly sampled tokens behind those it had."""
    tokens = rollout.token_ids + tuple(token_ids)
    return dataclasses.replace(
        rollout,
        token_ids=tokens,
        sampler_log_probs=rollout.sampler_log_probs + tuple(log_probs),
        versions=merged((*rollout.versions, *versions)),
        finish_reason=finish_reason,
        text=completion_text(tokenizer, tokens),
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
