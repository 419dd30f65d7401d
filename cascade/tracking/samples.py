"""Rollouts as a person reads them: prompt, completion, reward; the best and the worst of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from cascade.atomic import json_text
from cascade.types import Prompt, Rollout

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, such as the `decode` of a tokenizer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout in words, e.g. `Sample("math/17+25", "math", "17+25 =", "42", 1.0, "stop", None)`."""

    row_id: str
    domain: str
    prompt: str
    completion: str
    reward: float | None  # None: a failure
    finish_reason: str
    failure: str | None


def sample_of(rollout: Rollout, decode: Decode | None = None) -> Sample:
    """The sample of a rollout; without `decode` its prompt is shown as the JSON of the row's data."""
    row = rollout.prompt.row
    reward = rollout.reward if rollout.score is not None and isfinite(rollout.reward) else None
    text = prompt_text(rollout.prompt, decode)
    return Sample(row.id, row.domain, text, printable(rollout.text), reward, rollout.finish_reason, rollout.failure)


def prompt_text(prompt: Prompt, decode: Decode | None) -> str:
    """What was asked, as text."""
    return printable(decode(prompt.token_ids) if decode else json_text(dict(prompt.row.data)))


def best_and_worst(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """(best, worst) of every group with a reward, widest spread first; the same sample twice in a group of one."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.reward is not None:
            groups.setdefault((sample.domain, sample.row_id), []).append(sample)
    pairs = [(max(group, key=_reward), min(group, key=_reward)) for group in groups.values()]
    return sorted(pairs, key=lambda pair: _reward(pair[1]) - _reward(pair[0]))


def printable(text: str) -> str:
    """Text without what moves a cursor, turns the writing direction or is no character; such are shown as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _reward(sample: Sample) -> float:
    return sample.reward if sample.reward is not None else float("nan")
