"""Means, standard errors and pass@k of scored groups, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from cascade.errors import EngineError
from cascade.stages.evaluate import score_groups
from cascade.types import Group, Prompt, Rollout, Row, Score, VersionSpan


def group(*rewards: float | None) -> Group:
    prompt = Prompt(Row("e/1", "math", "e", {}), (1,))
    rollouts = tuple(
        Rollout(
            prompt,
            i,
            (2,),
            (0.0,),
            (VersionSpan(0, 1),),
            "stop",
            score=None if reward is None else Score(reward),
            failure="judge is down",
        )
        for i, reward in enumerate(rewards)
    )
    return Group(prompt, rollouts)


def test_avg_at_k_is_the_mean_of_row_means_and_pass_at_k_counts_rows_with_one_right_answer() -> None:
    score = score_groups([group(1, 0), group(0, 0), group(1, 1), group(0, 1)], k=2)
    assert score.mean == pytest.approx((0.5 + 0 + 1 + 0.5) / 4)
    assert score.pass_at_k == pytest.approx(3 / 4)
    variance = sum((m - 0.5) ** 2 for m in (0.5, 0.0, 1.0, 0.5)) / 3
    assert score.stderr == pytest.approx(math.sqrt(variance / 4))
    assert (score.n, score.k) == (4, 2)
    assert score.interval == pytest.approx(1.96 * score.stderr)
    assert score.pass_at_k_interval == pytest.approx(1.96 * math.sqrt(0.75 * 0.25 / 4))


def test_one_greedy_answer_has_no_pass_at_k() -> None:
    assert score_groups([group(1), group(0)], k=1).pass_at_k is None


def test_what_could_not_be_scored_does_not_count_as_wrong() -> None:
    score = score_groups([group(1, None), group(None, None), group(1, 1)], k=2)
    assert (score.mean, score.n) == (1.0, 2)


def test_nothing_scored_is_an_error_that_tells_the_first_reason() -> None:
    with pytest.raises(EngineError, match="judge is down"):
        score_groups([group(None)], k=1)
