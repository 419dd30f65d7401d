"""Completions of files as attempts: texts, messages, and items of the Responses API."""

from __future__ import annotations

from typing import Any

import pytest

from cascade.environments.attempts import attempt_at, attempt_of
from cascade.errors import DataError

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def test_text_is_one_turn() -> None:
    attempt = attempt_of("<think>2+2</think>4")
    assert (attempt.turns, attempt.reasoning, attempt.answers) == (("<think>2+2</think>4",), ("2+2",), ("4",))


def test_the_assistants_messages_are_the_turns_and_calls_are_text() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    messages = [
        {"role": "user", "content": "not a turn"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    attempt = attempt_of(messages)
    assert attempt.answers == (CALL, "It is 2.")
    assert attempt.reasoning == ("hm", "")


def test_items_that_follow_each_other_are_one_turn() -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "output": "2"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It is 2."}]},
    ]
    assert attempt_of(items).answers == (CALL, "It is 2.")
    assert attempt_of(items).reasoning == ("hm", "")


def test_where_the_user_goes_on_after_a_call_the_model_had_an_empty_turn() -> None:
    messages = [
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "and then?"},
        {"role": "assistant", "content": CALL},
        {"role": "tool", "content": "2"},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": CALL},
        {"role": "user", "content": "done?"},
        {"role": "assistant", "content": "yes"},
    ]
    assert attempt_of(messages).answers == ("first", CALL, "", CALL, "", "yes")


@pytest.mark.parametrize("completion", [None, 4, [], [{"role": "user", "content": "hi"}], [4], {"role": "assistant"}])
def test_what_is_neither_text_nor_messages_is_refused(completion: Any) -> None:
    with pytest.raises(DataError):
        attempt_of(completion)


def test_a_prompt_that_opened_the_reasoning_leaves_an_unfinished_turn_without_answer() -> None:
    assert attempt_at(["2+2"], opened=True).answers == ("",)
    assert attempt_at(["2+2"]).answers == ("2+2",)
