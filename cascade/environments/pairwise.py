"""Comparisons of answers in pairs: who meets whom, what a judge's reply says, and what it comes to for each answer.

The numbers are those of Nemotron 3 Nano (arXiv 2512.20848, section 3.3.2, Eqs. 2-3) as NeMo-Gym's `genrm_compare`
computes them: two helpfulness scores from 1 to 5, and a ranking from 1 (the first answer is much better) to 6.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Pairing = Literal["all", "circular"]

EVEN = 3.5  # a ranking that prefers neither
SCORES, RANKINGS = (1.0, 5.0), (1.0, 6.0)
LONGEST_REPLY = 100_000  # characters from its end that are read
LONGEST_SEARCH = 500_000  # characters looked at for the ends of objects, some more than once
_LEXEME = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}]', re.DOTALL)
_FENCE = re.compile(r"```json", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judge's verdict on two answers, e.g. `Comparison(4.0, 3.0, 2.0)`."""

    score_1: float
    score_2: float
    ranking: float
    parsed: bool = True  # False: the reply had no verdict

    @property
    def settled(self) -> tuple[float, float]:
        """Both scores; equal ones are parted by the ranking: s_1 + 3.5 - s_r and s_2 + s_r - 3.5 (Eq. 2)."""
        if self.score_1 != self.score_2:
            return self.score_1, self.score_2
        return self.score_1 + (EVEN - self.ranking), self.score_2 - (EVEN - self.ranking)


NEUTRAL = Comparison(3.0, 3.0, EVEN, parsed=False)
"""What a reply without a verdict counts as."""


def pairs(pairing: Pairing, count: int, both_orders: bool = False) -> list[tuple[int, int]]:
    """Which of `count` answers are compared, as (first shown, second shown), each such pair once.

    `all`: every two, count * (count - 1) / 2 pairs. `circular`: each with the next one, the last with the first.
    `both_orders` shows each pair the other way round too.
    """
    if count < 2:
        return []
    if pairing == "all":
        found = list(itertools.combinations(range(count), 2))
    else:
        found = [(i, (i + 1) % count) for i in range(count)]
    return list(dict.fromkeys([*found, *((j, i) for i, j in found)] if both_orders else found))


def base_scores(count: int, matches: Iterable[tuple[tuple[int, int], Comparison]]) -> list[float | None]:
    """The mean of each answer's settled scores over its matches (Eq. 3); None for one without a match."""
    totals, played = [0.0] * count, [0] * count
    for places, comparison in matches:
        for place, score in zip(places, comparison.settled, strict=True):
            totals[place] += score
            played[place] += 1
    return [total / n if n else None for total, n in zip(totals, played, strict=True)]


def won(comparison: Comparison, place: int) -> float:
    """1 when the answer in that place, 0 or 1, is the better one, 0 when the other is, 0.5 for a tie."""
    own, other = comparison.settled[place], comparison.settled[1 - place]
    return 0.5 if own == other else float(own > other)


def parse_comparison(reply: str) -> Comparison | None:
    """The verdict in a judge's reply; None where it has none.

    It is the first JSON object in a block marked `json` that is a verdict, else the last such object anywhere.
    A verdict has at least one of `score_1`, `score_2` and `ranking`, or has them under `overall`; what is left out is
    neutral. A value that is no number from 1 to 5, or 6 for the ranking, makes it none.
    """
    reply = reply[-LONGEST_REPLY:]
    for block in _fenced(reply):
        for found in json_objects(block):
            if (verdict := _verdict(found)) is not None:
                return verdict
    verdicts = [verdict for found in json_objects(reply) if (verdict := _verdict(found)) is not None]
    return verdicts[-1] if verdicts else None


def json_objects(text: str) -> list[str]:
    """Every outermost `{...}` of the text with as many closing as opening braces, those in strings not counted."""
    found, looked_at = [], 0
    start = text.find("{")
    while start >= 0 and looked_at < LONGEST_SEARCH:
        end = _closing(text, start)
        looked_at += (end or len(text)) - start
        if end is not None:
            found.append(text[start:end])
        start = text.find("{", end or start + 1)
    return found


def _closing(text: str, start: int) -> int | None:
    depth = 0
    for lexeme in _LEXEME.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(lexeme[0], 0)
        if depth == 0:
            return lexeme.end()
    return None


def _fenced(text: str) -> Iterator[str]:
    """The insides of blocks that open with three backticks and `json`."""
    end = 0
    while (opened := _FENCE.search(text, end)) is not None:
        closed = text.find("```", opened.end())
        if closed < 0:
            return
        yield text[opened.end() : closed]
        end = closed + 3


def _verdict(text: str) -> Comparison | None:
    try:
        found = json.loads(text)
        found = found["overall"] if isinstance(found.get("overall"), dict) else found
        given = [key for key in ("score_1", "score_2", "ranking") if key in found]
        # Keys written with escapes are no judge's: they come from an answer that it repeats (`judging.quoting`).
        if not given or not all(re.search(rf'"{key}"\s*+:', text) for key in given):
            return None
        score_1 = _number(found.get("score_1", NEUTRAL.score_1), SCORES)
        score_2 = _number(found.get("score_2", NEUTRAL.score_2), SCORES)
        return Comparison(score_1, score_2, _number(found.get("ranking", EVEN), RANKINGS))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _number(value: object, bounds: Sequence[float]) -> float:
    number = float(value)  # pyright: ignore[reportArgumentType]  a TypeError for what is no number is awaited
    if not bounds[0] <= number <= bounds[1]:
        raise ValueError(f"{number} is not from {bounds[0]} to {bounds[1]}")
    return number
