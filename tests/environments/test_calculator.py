"""A conversation with a calculator: demonstrations hold, refusals are messages, only the last turn is rewarded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cascade.data.chat import render_conversation
from cascade.environments.calculator import REFUSAL, Calculator
from cascade.environments.catalogue import BUILT_IN
from cascade.errors import ConfigError
from cascade.ports import MultiTurn, ScoresEpisodes
from cascade.types import DOMAINS, Message, Row
from tests.tiny_models import TOKENIZER

CALCULATOR = Calculator(train_rows=500, validation_rows=50, test_rows=50)
ROWS = [row for split in ("train", "validation", "test") for row in CALCULATOR.rows(split)]


def contents(messages: Sequence[Message], role: str) -> list[str]:
    return [message.get("content", "") for message in messages if message.get("role") == role]


def row(expression: str, answer: str) -> Row:
    return Row("calculator/r", "tool_use", "calculator", {"question": f"use calc for {expression}=", "answer": answer})


def test_every_demonstration_is_the_episode_that_the_environment_answers() -> None:
    for task in ROWS:
        shown = CALCULATOR.demonstration(task)["messages"]
        answers, replies = contents(shown, "assistant"), contents(shown, "tool")
        assert shown[:1] == CALCULATOR.messages(task)
        assert len(answers) == len(replies) + 1 <= CALCULATOR.max_turns
        for turn, reply in enumerate(replies, 1):
            assert CALCULATOR.respond(task, answers[:turn]) == [{"role": "tool", "content": reply}]
        assert CALCULATOR.respond(task, answers) is None
        expected = {"correct": 1.0, "calls": float(len(replies)), "refused": 0.0}
        assert CALCULATOR.score_episode(task, answers).parts == expected


def test_gold_scores_one_and_the_sum_is_right() -> None:
    for task in ROWS:
        question = task.data["question"]
        assert CALCULATOR.score(task, CALCULATOR.gold(task)).reward == 1.0
        terms = question.removeprefix("use calc for ").removesuffix("=").replace("-", "+-").split("+")
        assert CALCULATOR.gold(task) == str(sum(int(term) for term in terms if term))


def test_steps_go_from_left_to_right_over_negative_numbers() -> None:
    shown = CALCULATOR.demonstration(row("3-10-5+20", "8"))["messages"]
    assert contents(shown, "assistant") == ["calc 3-10", "calc -7-5", "calc -12+20", "8"]
    assert contents(shown, "tool") == ["-7", "-12", "8"]


@pytest.mark.parametrize(
    "call", ("calc", "calc ", "calc 3", "calc 3*4", "calc 1+2+3", "calc 1 + 2", "calc ٣+1", "calc " + "9" * 5000 + "+1")
)
def test_a_call_that_cannot_be_carried_out_is_answered_and_costs_nothing(call: str) -> None:
    task = row("3+4", "7")
    assert CALCULATOR.respond(task, [call]) == [{"role": "tool", "content": REFUSAL}]
    score = CALCULATOR.score_episode(task, [call, "calc 3+4", "7"])
    assert score.reward == 1.0
    assert score.parts == {"correct": 1.0, "calls": 2.0, "refused": 1.0}


@pytest.mark.parametrize("answers", (["calc 3+4"], ["calc 3+4", "8"], [""], ["calc 3+4", " 7"], ["calculate 3+4"]))
def test_an_episode_that_does_not_end_in_the_answer_earns_nothing(answers: list[str]) -> None:
    assert CALCULATOR.score_episode(row("3+4", "7"), answers).reward == 0.0


def test_everything_that_is_said_is_in_a_small_alphabet() -> None:
    for task in ROWS[:100]:
        render_conversation(TOKENIZER, CALCULATOR.demonstration(task)["messages"])
    render_conversation(TOKENIZER, [*CALCULATOR.messages(ROWS[0]), {"role": "assistant", "content": REFUSAL}])


def test_it_is_of_several_turns_and_in_the_catalogue() -> None:
    assert isinstance(CALCULATOR, MultiTurn)
    assert isinstance(CALCULATOR, ScoresEpisodes)
    assert CALCULATOR.domain in DOMAINS
    assert BUILT_IN["calculator"].endswith(".Calculator")
    assert len({task.id for task in ROWS}) == len(ROWS)


@pytest.mark.parametrize("parameters", ({"min_terms": 1}, {"max_terms": 1}, {"digits": 0}, {"spare_turns": -1}))
def test_meaningless_parameters_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Calculator(**parameters)
