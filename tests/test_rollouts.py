"""A failure has a kind and never becomes a reward of 0; reasoning is not judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from cascade.data.dialogue import Dialogue
from cascade.episodes import Episode
from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import Environment
from cascade.rollouts import judge_episodes
from cascade.types import Attempt, Message, Prompt, Rollout, Row, Score, Split, Verdict, VersionSpan
from cascade.verification.local import LocalVerifiers
from tests.tiny_models import TOKENIZER

ROW = Row("e/1", "math", "e", {"answer": "4"})


class Judged:
    """Scores the answer 4, or fails as it was told to."""

    domain = "math"

    def __init__(self, failure: FailureKind | None = None) -> None:
        self.failure = failure

    def rows(self, split: Split) -> list[Row]:
        return [ROW]

    def messages(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": "2+2"}]

    def gold(self, row: Row) -> str:
        return "4"

    def score(self, row: Row, answer: str) -> Score:
        if self.failure:
            raise VerifierFailure(self.failure, "the judge says no")
        return Score(float(answer == "4"))


def answered(
    *texts: str, finish_reason: Literal["stop", "length", "abort"] = "stop", failure: VerifierFailure | None = None
) -> Episode:
    prompt = Prompt(ROW, (1,))
    rollout = Rollout(prompt, 0, (2,), (0.0,), (VersionSpan(0, 1),), finish_reason, text=texts[-1])
    return Episode(rollout, Dialogue(TOKENIZER, [], (1,)), 9, texts=texts, failure=failure)


def judged(environment: Environment, *episodes: Episode) -> list[Verdict]:
    (verdicts,) = judge_episodes(LocalVerifiers({"e": environment}, {}), [episodes])
    return verdicts


def rewards(verdicts: Sequence[Verdict]) -> list[float | None]:
    return [verdict.score.reward if verdict.score else None for verdict in verdicts]


@pytest.mark.parametrize("kind", [FailureKind.INFRASTRUCTURE, FailureKind.DATA])
def test_a_failure_that_is_not_the_models_leaves_no_reward(kind: FailureKind) -> None:
    (verdict,) = judged(Judged(kind), answered("4"))
    assert (verdict.score, verdict.status, verdict.reason) == (None, kind, "the judge says no")


def test_a_failure_of_the_models_own_doing_earns_nothing() -> None:
    (verdict,) = judged(Judged(FailureKind.TASK), answered("4"))
    assert verdict.status == "task"
    assert rewards([verdict]) == [0.0]


def test_a_crash_of_the_environment_is_a_failure_with_its_traceback() -> None:
    class Broken(Judged):
        def score(self, row: Row, answer: str) -> Score:
            raise KeyError("missing")

    (verdict,) = judged(Broken(), answered("4"))
    assert (verdict.score, verdict.status) == (None, "data")
    assert verdict.reason.startswith("KeyError: 'missing'\nTraceback")
    assert 'raise KeyError("missing")' in verdict.reason


def test_the_last_turn_is_judged_unless_the_environment_judges_all() -> None:
    class JudgedWhole(Judged):
        def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
            return Score(float(len(answers)))

    assert rewards(judged(Judged(), answered("5", "4"), answered("4", "5"))) == [1.0, 0.0]
    assert rewards(judged(JudgedWhole(), answered("4", "5"))) == [2.0]


def test_reasoning_is_judged_only_where_the_environment_asks_for_it() -> None:
    class JudgesReasoning(Judged):
        def score_attempt(self, row: Row, attempt: Attempt) -> Score:
            return Score(float(attempt.reasoning == ("2 and 2",) and attempt.answers == ("4",) and attempt.finished))

    reasoned = answered("<think>2 and 2</think>4")
    assert rewards(judged(Judged(), reasoned, answered("<think>4"))) == [1.0, 0.0]
    cut = answered("<think>2 and 2</think>4", finish_reason="length")
    assert rewards(judged(JudgesReasoning(), reasoned, cut)) == [1.0, 0.0]


def test_attempts_that_are_compared_are_judged_together_without_those_that_failed() -> None:
    class Compared(Judged):
        def score_group(self, row: Row, attempts: Sequence[Attempt]) -> list[Score | VerifierFailure]:
            longest = max(len(attempt.answers[-1]) for attempt in attempts)
            lost = VerifierFailure(FailureKind.INFRASTRUCTURE, "no judge")
            return [Score(len(a.answers[-1]) / longest) if a.answers[-1] else lost for a in attempts]

    failed = answered("a long answer", failure=VerifierFailure(FailureKind.DATA, "no such tool"))
    verdicts = judged(Compared(), answered("four"), failed, answered("4"), answered(""))
    assert rewards(verdicts) == [1.0, None, 0.25, None]
    assert [verdict.reason for verdict in verdicts] == ["", "no such tool", "", "no judge"]


def test_an_episode_that_was_interrupted_has_no_reward() -> None:
    (verdict,) = judged(Judged(), answered("4", finish_reason="abort"))
    assert (verdict.score, verdict.status) == (None, "infrastructure")
    assert verdict.reason == "interrupted before its end"
