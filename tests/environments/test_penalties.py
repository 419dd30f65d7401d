"""Penalties for attempts written wrongly: which faults there are, and what they take off a reward."""

from __future__ import annotations

import pytest

from cascade.config import PenaltiesConfig
from cascade.environments.attempts import attempt_at
from cascade.environments.penalties import faults, penalise, tags_as_asked
from cascade.types import Attempt, Score

ALL = PenaltiesConfig(empty_answer=1.0, reasoning_as_answer=1.0, think_tags=1.0)


@pytest.mark.parametrize(
    "turns, named",
    [
        (["<think>2+2</think>4"], []),
        (["2+2</think>4"], []),  # the prompt opened the reasoning
        (["<think>2+2</think>  \n"], ["empty_answer"]),
        (["<think>never ends"], ["empty_answer", "think_tags"]),
        (["<think> 4</think>4 "], ["reasoning_as_answer"]),
        (["<think></think>"], ["empty_answer"]),  # two empty texts are not a copy
        (["<think>a<think>b</think>4"], ["think_tags"]),
        (["<think>a</think>b</think>4"], ["think_tags"]),
        (["<think>a</think>4<think>"], ["think_tags"]),
        (["4"], ["think_tags"]),
        (["<think>same</think>same", "<think>a</think>4"], ["reasoning_as_answer"]),  # in any turn
        (["<think>a</think>", "<think>a</think>4"], []),  # only the last turn needs an answer
        (["<think>a</think>4", "5"], ["think_tags"]),  # in any turn
    ],
)
def test_the_faults_of_an_attempt_that_was_asked_to_reason(turns: list[str], named: list[str]) -> None:
    assert faults(attempt_at(turns), thinking=True) == named


@pytest.mark.parametrize(
    "turn, named",
    [
        ("4", []),
        ("", ["empty_answer"]),
        ("<think>a</think>4", []),  # the model's own block, where the template leaves it to the model
        ("<think>a</think>b</think>4", ["think_tags"]),
        ("4 <think>a</think>4", ["think_tags"]),
        ("</think>4", ["think_tags"]),
    ],
)
def test_the_faults_of_one_that_was_not(turn: str, named: list[str]) -> None:
    assert faults(attempt_at([turn]), thinking=False) == named


def test_reasoning_that_the_prompt_opened_may_not_be_opened_again_in_its_middle() -> None:
    assert tags_as_asked("thoughts</think>4", thinking=True)
    assert not tags_as_asked("thoughts<think></think>4", thinking=True)


def test_a_penalty_as_high_as_the_reward_zeroes_it_and_its_part_says_why() -> None:
    attempt = attempt_at(["<think>4</think>4"])
    score = penalise(Score(1.0, {"correct": 1.0}), attempt, ALL, thinking=True)
    assert score == Score(0.0, {"correct": 1.0, "penalty/reasoning_as_answer": 1.0})


def test_penalties_add_up_and_stop_at_0() -> None:
    attempt = attempt_at(["<think>never ends"])
    some = PenaltiesConfig(empty_answer=0.5, think_tags=0.25)
    assert penalise(Score(4.0), attempt, some, True).reward == 3.25
    assert penalise(Score(0.6), attempt, some, True).reward == 0.0


@pytest.mark.parametrize("reward", [0.0, -1.0])
def test_a_reward_that_is_not_above_0_stays(reward: float) -> None:
    assert penalise(Score(reward), attempt_at([""]), ALL, True).reward == reward


def test_without_penalties_or_faults_the_score_is_the_same() -> None:
    score = Score(1.0, {"correct": 1.0})
    assert penalise(score, attempt_at(["never closed"]), PenaltiesConfig(), True) is score
    assert penalise(score, attempt_at(["<think>a</think>4"]), ALL, True) is score


def test_an_attempt_without_turns_has_no_answer() -> None:
    assert faults(Attempt((), (), ()), thinking=True) == ["empty_answer"]


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<", " "])
def test_five_megabytes_are_looked_at_at_once(piece: str) -> None:
    turn = piece * (5_000_000 // len(piece))
    penalise(Score(1.0), attempt_at([turn]), ALL, True)
