"""How good a reward model is: pairwise accuracy on pairs it has not seen, beside what lengths alone would say."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cascade import parallel
from cascade.config import EvaluationConfig
from cascade.data.pairs import conversation_length
from cascade.errors import DataError
from cascade.ports import GivesPairs
from cascade.prompts import Renderer
from cascade.teachers.reward import LocalRewardModel
from cascade.types import PairScore, PairScores, Row, Split, SplitScore

Way = Literal["longer", "shorter"]


@dataclass(frozen=True)
class Comparison:
    """One pair, judged: how much higher and how much longer its chosen side is."""

    margin: float  # chosen reward - rejected reward
    longer_by: int  # characters


def evaluate_pairs(
    model: LocalRewardModel,
    renderer: Renderer,
    config: EvaluationConfig,
    splits: Sequence[Split] = ("validation", "test"),
) -> PairScores:
    """split -> domain -> score on the pairs of the renderer's environments. Collective.

    Raises `DataError` for a split that has no pairs.
    """
    train = _by_domain(_rows(renderer, "train"))
    way: dict[str, Way] = {domain: _way(renderer, rows) for domain, rows in train.items()}
    found: dict[str, dict[str, PairScore]] = {}
    for split in splits:
        wanted = config.validation_rows if split == "validation" else config.test_rows
        rows = _rows(renderer, split, wanted)
        if not rows:
            raise DataError(f"There are no {split} pairs.", f"Name a `{split}` source, or raise `{split}_rows`.")
        judged: dict[str, list[Comparison]] = defaultdict(list)
        for row, comparison in zip(rows, _compared(model, renderer, rows), strict=True):
            judged[row.domain].append(comparison)
        found[split] = {domain: pair_score(comparisons, way[domain]) for domain, comparisons in judged.items()}
    return found


def pair_score(comparisons: Sequence[Comparison], way: Way) -> PairScore:
    """The score of judged pairs. `way`: what the baseline that sees lengths only prefers."""
    right = [_right(c.margin) for c in comparisons]
    longer = [_right(c.longer_by) for c in comparisons]
    by_length = longer if way == "longer" else [1 - value for value in longer]
    return PairScore(
        accuracy=_mean(right),
        longer=_mean(longer),
        length_only=_mean(by_length),
        prefers=way,
        above_length=_mean([ours - theirs for ours, theirs in zip(right, by_length, strict=True)]),
        margin=statistics.fmean(c.margin for c in comparisons),
    )


def sentence(split: str, domain: str, score: PairScore) -> str:
    """A score in words, e.g. `test pairs of preference: 0.653 ± 0.015 right (n=1000); by length alone (...) ...`."""
    accuracy, length, gain = score.accuracy, score.length_only, score.above_length
    return (
        f"{split} pairs of {domain}: {accuracy.mean:.3f} ± {accuracy.stderr:.3f} right (n={accuracy.n}); by length "
        f"alone ({score.prefers} preferred) {length.mean:.3f} ± {length.stderr:.3f}, longer preferred "
        f"{score.longer.mean:.3f}; above length {gain.mean:+.3f} ± {gain.stderr:.3f}"
    )


def _rows(renderer: Renderer, split: Split, most: int | None = None) -> list[Row]:
    return [row for environment in renderer.environments.values() for row in environment.rows(split)[:most]]


def _by_domain(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.domain].append(row)
    return found


def _way(renderer: Renderer, rows: Sequence[Row]) -> Way:
    """What is right more often in training pairs: the longer side or the shorter one; the longer where both are."""
    share = statistics.fmean(_right(_longer_by(renderer, row)) for row in rows)
    return "longer" if share >= 0.5 else "shorter"


def _compared(model: LocalRewardModel, renderer: Renderer, rows: list[Row]) -> list[Comparison]:
    """Every row judged, each rank judging its share. Collective."""
    share = parallel.spread(rows)
    sides = parallel.everywhere(lambda: [side for row in share for side in renderer.pair(row)])
    rewards = model.score(sides)
    margins = [chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2], strict=True)]
    return parallel.collect(
        [Comparison(margin, _longer_by(renderer, row)) for row, margin in zip(share, margins, strict=True)]
    )


def _longer_by(renderer: Renderer, row: Row) -> int:
    environment = renderer.environments[row.environment]
    if not isinstance(environment, GivesPairs):
        raise DataError(f"{row.environment} gives no preference pairs.", "See `cascade.ports.GivesPairs`.")
    pair = environment.pair(row)
    return conversation_length(pair.chosen) - conversation_length(pair.rejected)


def _right(difference: float) -> float:
    """1 above 0, 0 below, one half for a tie."""
    return 0.5 if difference == 0 else float(difference > 0)


def _mean(values: Sequence[float]) -> SplitScore:
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return SplitScore(statistics.fmean(values), stderr, len(values))
