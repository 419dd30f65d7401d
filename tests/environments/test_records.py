"""Prompts, tools and modes of rows as TRL and NeMo-Gym write them; anything else is refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascade.environments.records import messages_of, shared_fields, thinking_of, tools_of
from cascade.errors import DataError

ADD = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi"},
        {"prompt": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"responses_create_params": {"input": "hi"}},
        {"responses_create_params": {"input": [{"role": "user", "content": "hi"}]}},
        {"responses_create_params": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}},
        {"responses_create_params": json.dumps({"input": "hi"})},
        {"prompt": "not this one", "responses_create_params": {"input": "hi"}},
    ],
)
def test_every_form_of_a_prompt_is_the_same_messages(record: dict[str, Any]) -> None:
    assert messages_of(record) == [{"role": "user", "content": "hi"}]


def test_items_of_the_responses_api_become_chat_messages() -> None:
    items = [
        {"role": "developer", "content": "be brief"},
        {"type": "function_call", "name": "add", "arguments": '{"a": 1}', "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    assert messages_of({"responses_create_params": {"input": items}}) == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'},
        {"role": "tool", "content": "2"},
    ]


def test_tools_of_both_forms_are_the_same() -> None:
    chat = {"type": "function", "function": ADD}
    flat = {"type": "function", "strict": False, **ADD}
    assert tools_of({"tools": [chat]}) == tools_of({"responses_create_params": {"tools": [flat]}}) == [chat]
    assert tools_of({"tools": json.dumps([chat])}) == [chat]
    assert tools_of({"tools": []}) is tools_of({}) is None


def test_a_row_chooses_its_mode() -> None:
    assert thinking_of({"thinking": False}) is False
    assert thinking_of({"chat_template_kwargs": {"enable_thinking": True}}) is True
    assert thinking_of({}) is None
    assert shared_fields({"prompt": "hi", "thinking": True, "answer": "4"}) == {
        "messages": [{"role": "user", "content": "hi"}],
        "thinking": True,
    }


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": 4},
        {"prompt": []},
        {"prompt": [4]},
        {"prompt": [{"content": "hi"}]},
        {"prompt": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"responses_create_params": "{"},
        {"responses_create_params": []},
        {"prompt": "hi", "tools": "{"},
        {"prompt": "hi", "tools": [4]},
        {"prompt": "hi", "tools": [{"description": "no name"}]},
        {"prompt": "hi", "thinking": "yes"},
    ],
)
def test_other_forms_are_malformed_rows(record: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        shared_fields(record)
