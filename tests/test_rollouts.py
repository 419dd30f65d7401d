"""A failure has a kind and never becomes a reward of 0; reasoning is not judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from cascade.data.dialogue import Dialogue
from cascade.episodes import Episode, without_reasoning
from cascade.errors import FailureKind, VerifierFailure
from cascade.rollouts import score_episode
from cascade.types import Message, Prompt, Rollout, Row, Score, Split, VersionSpan
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


def answered(*answers: str, finish_reason: Literal["stop", "abort"] = "stop") -> Episode:
    prompt = Prompt(ROW, (1,))
    rollout = Rollout(prompt, 0, (2,), (0.0,), (VersionSpan(0, 1),), finish_reason, text=answers[-1])
    return Episode(rollout, Dialogue(TOKENIZER, [], (1,)), 9, answers=answers)


@pytest.mark.parametrize("kind", [FailureKind.INFRASTRUCTURE, FailureKind.DATA])
def test_a_failure_that_is_not_the_models_leaves_no_reward(kind: FailureKind) -> None:
    scored = score_episode(Judged(kind), answered("4"))
    assert scored.score is None
    assert scored.failure == f"{kind}: the judge says no"
    with pytest.raises(ValueError, match="has no score"):
        _ = scored.reward


def test_a_failure_of_the_models_own_doing_earns_nothing() -> None:
    assert score_episode(Judged(FailureKind.TASK), answered("4")).reward == 0.0


def test_a_crash_of_the_environment_is_not_swallowed() -> None:
    class Broken(Judged):
        def score(self, row: Row, answer: str) -> Score:
            raise KeyError("missing")

    with pytest.raises(KeyError):
        score_episode(Broken(), answered("4"))


def test_the_last_turn_is_judged_unless_the_environment_judges_all() -> None:
    class JudgedWhole(Judged):
        def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
            return Score(float(len(answers)))

    assert score_episode(Judged(), answered("5", "4")).reward == 1.0
    assert score_episode(Judged(), answered("4", "5")).reward == 0.0
    assert score_episode(JudgedWhole(), answered("4", "5")).reward == 2.0


def test_an_episode_that_was_interrupted_has_no_reward() -> None:
    scored = score_episode(Judged(), answered("4", finish_reason="abort"))
    assert scored.score is None
    assert scored.failure == "infrastructure: interrupted before its end"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("4", False, "4"),
        ("2 and 2</think>4", True, "4"),
        ("</think> wrong</think>\n4\n", True, "4"),
        ("2 and 2 and 2", True, ""),
    ],
)
def test_only_what_follows_the_reasoning_is_judged(text: str, thinking: bool, answer: str) -> None:
    assert without_reasoning(text, thinking) == answer
