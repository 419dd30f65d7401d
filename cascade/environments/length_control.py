"""What length adds to and takes from the rewards of a group: centred weights, and bonuses for the shortest of the best.

Nemotron 3 Nano (arXiv 2512.20848), section 3.3.2, Eqs. 4-6, in the form and under the names of NeMo-Gym's
`genrm_compare`, whose numbers these are. Lengths are characters without white space around the text. Reasoning and
answer are treated apart, so that reasoning less is not paid with a longer answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LengthControl:
    """The defaults are the paper's 0.5s; NeMo-Gym's are 0, which is no control at all."""

    reasoning_bonus: float = 0.5
    answer_bonus: float = 0.5
    top_percentile: float = 0.2  # share of the group whose base rewards are good enough for a bonus
    group_reasoning_length_penalty_coeff: float = 0.5
    group_answer_length_penalty_coeff: float = 0.5


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A reward and what it is made of besides the base, e.g. `Adjusted(4.75, 0.5, 0.0, 0.25, 0.0)`."""

    reward: float
    reasoning_bonus: float
    answer_bonus: float
    reasoning_length: float
    answer_length: float


def length_weights(lengths: Sequence[int]) -> list[float]:
    """1 for the shortest to 0 for the longest, less their mean (Eqs. 4-5); all 0 where all are equally long."""
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    weights = [1.0 - (length - shortest) / (longest - shortest) for length in lengths]
    mean = sum(weights) / len(weights)
    return [weight - mean for weight in weights]


def adjust(
    base: Sequence[float], reasoning: Sequence[str], answers: Sequence[str], control: LengthControl
) -> list[Adjusted]:
    """The rewards of a group, from what each member's comparisons came to and what it wrote.

    A bonus goes to the shortest text of the group that is not empty, the first of equally short ones, if its base
    reward is no less than that of the last of the top `top_percentile`; else to nobody.
    """
    if len(base) < 2:
        return [Adjusted(reward, 0.0, 0.0, 0.0, 0.0) for reward in base]
    thought, said = ([len(text.strip()) for text in texts] for texts in (reasoning, answers))
    threshold = sorted(base, reverse=True)[max(0, int(len(base) * control.top_percentile) - 1)]
    reasoning_bonus = _bonus(base, thought, threshold, control.reasoning_bonus)
    answer_bonus = _bonus(base, said, threshold, control.answer_bonus)
    by_reasoning = [weight * control.group_reasoning_length_penalty_coeff for weight in length_weights(thought)]
    by_answer = [weight * control.group_answer_length_penalty_coeff for weight in length_weights(said)]
    parts = zip(base, reasoning_bonus, answer_bonus, by_reasoning, by_answer, strict=True)
    return [Adjusted(reward + first + second + (r + a), first, second, r, a) for reward, first, second, r, a in parts]


def _bonus(rewards: Sequence[float], lengths: Sequence[int], threshold: float, bonus: float) -> list[float]:
    given = [0.0] * len(rewards)
    written = [place for place, length in enumerate(lengths) if length > 0]
    if written:
        shortest = min(written, key=lambda place: lengths[place])
        if rewards[shortest] >= threshold:
            given[shortest] = bonus
    return given
