"""Cells changed with tools: every way to the right state is right, and no other."""

from __future__ import annotations

import json

import pytest

from cascade.environments.procedural import split_of
from cascade.environments.tiny_state import ToolState, carried_out, start_of
from cascade.errors import ConfigError
from cascade.types import Row

ENVIRONMENT = ToolState(seed=3, train_rows=1500, validation_rows=200, test_rows=200)
ROWS = [row for split in ("train", "validation", "test") for row in ENVIRONMENT.rows(split)]
EXAMPLE = Row(
    "tool_state/r",
    "tool_use",
    "tool_state",
    {"question": "a3 b7 c1: +2 low, swap a c", "answer": '{"add":{"c":2},"swap":"ac"}'},
)


def worked_out(question: str) -> dict[str, int]:
    """What the steps of a question leave, read from its words alone."""
    state = start_of(question)
    for step in question.partition(": ")[2].split(", "):
        words = step.split(" ")
        if words[0] == "swap":
            state[words[1]], state[words[2]] = state[words[2]], state[words[1]]
        elif "=" in step:
            state[step[0]] = int(step[2:])
        elif "like" in step:
            state[words[0]] = state[words[2]]
        else:
            order = sorted(state, key=lambda cell: state[cell])
            cell = {"low": order[0], "high": order[-1]}.get(words[1], words[1])
            state[cell] += int(words[0])
    return state


def test_gold_does_what_the_words_say_and_is_short() -> None:
    for row in ROWS:
        assert ENVIRONMENT.score(row, ENVIRONMENT.gold(row)).reward == 1.0
        assert carried_out(json.loads(row.data["answer"]), start_of(row.data["question"])) == worked_out(
            row.data["question"]
        )
        assert len(row.data["answer"]) <= 28
        assert len(row.data["question"]) <= 32
        assert worked_out(row.data["question"]) != start_of(row.data["question"])


def test_setting_every_cell_to_what_it_shall_be_is_right_too() -> None:
    assert all(
        ENVIRONMENT.score(row, json.dumps({"set": worked_out(row.data["question"])})).reward == 1.0 for row in ROWS
    )


def test_splits_share_no_task() -> None:
    questions = [row.data["question"] for row in ROWS]
    assert len(set(questions)) == len(questions)
    assert {split_of(row.data["question"]) for row in ENVIRONMENT.rows("test")} == {"test"}


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ('{"add":{"c":2},"swap":"ac"}', 1.0),
        ('{"swap":"ca","add":{"a":2}}', 1.0),
        ('{"set":{"c":3}}', 1.0),
        ('{ "set" : { "a" : 3, "c" : 3 } }', 1.0),
        ('{"swap":"ac","add":{"c":2}}', 0.0),
        ('{"add":{"c":2}, "swap":"ab"}', 0.0),
        ('{"swap":"ac"}', 0.0),
        ("{}", 0.0),
        ("", 0.0),
        ('{"set":{"c":3.0}}', 0.0),
        ('{"set":{"c":"3"}}', 0.0),
        ('{"set":{"c":3,"d":1}}', 0.0),
        ('{"set":{"c":4,"c":3}}', 0.0),
        ('{"set":{"c":3},"drop":"a"}', 0.0),
        ('{"set":{"c":3}}{"set":{"c":3}}', 0.0),
        ('{"add":{"c":true}}', 0.0),
        ('{"add":{"c":1e999}}', 0.0),
        (f'{{"add":{{"c":{"9" * 4000}}}}}', 0.0),
        ('{"swap":"aa"}', 0.0),
        ('{"swap":["a","c"]}', 0.0),
        ('{"set":' * 100_000, 0.0),
        ("\ud800" * 1000, 0.0),
    ],
)
def test_only_the_final_state_counts_and_every_call_must_be_one(answer: str, reward: float) -> None:
    assert ENVIRONMENT.score(EXAMPLE, answer).reward == reward


def test_parts_tell_how_far_an_answer_got() -> None:
    assert ENVIRONMENT.score(EXAMPLE, "set c").parts == {"parsed": 0.0, "valid": 0.0, "correct": 0.0}
    assert ENVIRONMENT.score(EXAMPLE, '{"drop":"a"}').parts == {"parsed": 1.0, "valid": 0.0, "correct": 0.0}
    assert ENVIRONMENT.score(EXAMPLE, '{"swap":"ab"}').parts == {"parsed": 1.0, "valid": 1.0, "correct": 0.0}


def test_no_fixed_answer_earns_much() -> None:
    golds = {row.data["answer"] for row in ROWS}
    best = max(sum(ENVIRONMENT.score(row, gold).reward for row in ROWS) for gold in sorted(golds)[:200])
    assert best / len(ROWS) < 0.08


def test_parameters_are_checked() -> None:
    for params in ({"max_value": 1}, {"max_steps": 0}, {"max_steps": 3}):
        with pytest.raises(ConfigError):
            ToolState(**params)
