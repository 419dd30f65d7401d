"""The next call is compared as the reference compares it; nothing but the expected action is rewarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.attempts import attempt_of
from cascade.environments.function_call import FunctionCall, alike
from cascade.environments.tool_calls import call_text
from cascade.errors import ConfigError, DataError
from cascade.types import Row

ARGUMENTS = {"city": "Paris", "days": 3, "note": "bring an umbrella", "flags": {"urgent": True}, "rate": 0.5}
TOOLS = [
    {
        "type": "function",
        "name": "book",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    }
]
CALL = {"type": "function_call", "name": "book", "arguments": json.dumps(ARGUMENTS)}
MESSAGE = {"type": "message", "content": "Which city?"}


def row(action: object, environment: FunctionCall | None = None, **record: object) -> Row:
    data = (environment or FunctionCall()).read({"expected_action": action, **record})
    return Row("function_call/r", "tool_use", "function_call", data)


def reward(action: object, answer: str, **params: Any) -> float:
    return FunctionCall(**params).score(row(action), answer).reward


def called(**arguments: object) -> str:
    return call_text([{"name": "book", "arguments": arguments}])


def test_gold_scores_one() -> None:
    for action in (CALL, MESSAGE, {"type": "message", "content": ""}):
        assert FunctionCall().score(row(action), FunctionCall().gold(row(action))).reward == 1.0


def test_rows_of_nemo_gym_are_read_with_their_prompt_and_tools(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "A trip to Paris, please"}]
    record = {"responses_create_params": {"input": messages, "tools": TOOLS}, "expected_action": CALL}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record))
    environment = FunctionCall(test=str(tmp_path / "rows.jsonl"))
    (found,) = environment.rows("test")
    assert environment.messages(found) == messages
    assert (environment.tools(found) or [])[0]["function"]["name"] == "book"
    assert environment.score(found, environment.gold(found)).reward == 1.0


def test_the_xml_form_is_typed_by_the_tools_of_the_row() -> None:
    action = {"type": "function_call", "name": "book", "arguments": '{"city": "Nice", "days": 3}'}
    answer = (
        "<tool_call>\n<function=book>\n<parameter=city>\nNice\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert FunctionCall().score(row(action, tools=TOOLS), answer).reward == 1.0
    assert FunctionCall().score(row(action), answer).reward == 0.0  # "3" is no number without a schema


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("Paris", "Paris", True),
        ("Paris", "paris", False),  # one word: as it is
        ("bring an umbrella", "An Umbrella, bring", True),
        ("the cat", "the dog", True),  # 1 of 2 + 2 words: 0.25
        ("the cat ate some food", "the dog ran to the store", False),  # 1 of 11: 0.09
        ("the", "the cat", False),
        ("", "", True),
        ("", " ", False),
        (3, 3, True),
        (3, 4, False),
        (3, 3.0, False),
        (3.0, 3, False),
        (0.5, 0.5000001, True),
        (0.5, 0.50001, False),
        (1, True, True),  # a bool is an int in the reference's language
        (True, 1, False),
        (None, None, True),
        (None, "None", False),
        ([1, "a"], [1, "a"], True),
        ([1, "a"], ["a", 1], False),
        ([1], [1, 2], False),
        ({"x": 1}, {"x": 1, "y": 2}, False),
        ({"x": 1, "y": [None]}, {"y": [None], "x": 1}, True),
    ],
)
def test_values_are_alike_as_in_the_reference(expected: object, found: object, same: bool) -> None:
    assert alike({"value": found}, {"value": expected}, 0.1, 1e-6) is same


def test_the_overlap_asked_for_is_a_parameter() -> None:
    action = {"type": "function_call", "name": "book", "arguments": '{"note": "the cat"}'}
    assert reward(action, called(note="the dog"), word_overlap=0.25) == 1.0
    assert reward(action, called(note="the dog"), word_overlap=0.3) == 0.0
    with pytest.raises(ConfigError, match="word_overlap"):
        FunctionCall(word_overlap=0.6)
    with pytest.raises(ConfigError, match="tolerance"):
        FunctionCall(tolerance=-1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "I will book it.",
        called(),
        called(**{**ARGUMENTS, "days": 4}),
        called(**{**ARGUMENTS, "days": "3"}),
        called(**{**ARGUMENTS, "extra": 1}),
        called(**{key: value for key, value in ARGUMENTS.items() if key != "rate"}),
        call_text([{"name": "cancel", "arguments": ARGUMENTS}]),
        call_text([{"name": "cancel", "arguments": {}}, {"name": "book", "arguments": ARGUMENTS}]),  # the first counts
        call_text([CALL]).replace("0.5", "NaN"),
        call_text([CALL]).replace('"days": 3', '"days": 4, "days": 3'),
        call_text([CALL]).removesuffix("</tool_call>"),
        json.dumps(CALL),
        "<tool_call>" * 400_000,
        "Paris " * 800_000,
        called(note="[" * 100_000),
        "\ud800\x00",
    ],
)
def test_nothing_but_the_expected_call_is_rewarded(answer: str) -> None:
    assert reward(CALL, answer) == 0.0


def test_an_expected_message_is_any_text_without_a_call() -> None:
    assert reward(MESSAGE, "Where to?") == 1.0
    assert reward(MESSAGE, "Where to? " * 5_001) == 0.0
    for answer in ("", " \n", called(city="Paris"), f"Where to? {called()}", "<tool_call>{"):
        assert reward(MESSAGE, answer) == 0.0


def test_a_call_in_the_reasoning_does_not_count() -> None:
    attempt = attempt_of(f"<think>{call_text([CALL])}</think>I will not book.")
    assert reward(CALL, attempt.answers[-1]) == 0.0
    assert reward(CALL, attempt_of(f"<think>I must not</think>{call_text([CALL])}").answers[-1]) == 1.0


def test_completions_of_the_responses_api_are_judged_by_their_first_call() -> None:
    items = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One moment."}]},
        CALL,
    ]
    assert reward(CALL, attempt_of(items).answers[-1]) == 1.0
    parts = FunctionCall().score(row(CALL), attempt_of([CALL, CALL]).answers[-1]).parts
    assert parts == {"called": 1.0, "extra_calls": 1.0, "readable": 1.0, "tool": 1.0, "correct": 1.0}


@pytest.mark.parametrize(
    "action",
    [
        None,
        "book",
        {"type": "other"},
        {"type": "function_call", "arguments": "{}"},
        {"type": "function_call", "name": "book", "arguments": "days=3"},
        {"type": "function_call", "name": "book", "arguments": "[1]"},
        {"type": "function_call", "name": "book", "arguments": {"a": float("nan")}},
        {"type": "function_call", "name": "book", "arguments": {"a": object()}},
    ],
)
def test_a_malformed_expected_action_is_an_error_of_the_data(action: object) -> None:
    with pytest.raises(DataError):
        row(action)
