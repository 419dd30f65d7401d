"""Calls in both forms are read with their types; what cannot be read is a message, whatever the text and in time."""

from __future__ import annotations

import json
import time

import pytest

from cascade.environments.tool_calls import MAX_CALLS, MAX_CHARACTERS, MAX_DEPTH, Call, call_text, calls_of, xml_text

PROPERTIES = {
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "exact": {"type": "boolean"},
    "tags": {"type": "array"},
    "options": {"type": "object"},
    "title": {"type": "string"},
    "limit": {"type": ["integer", "null"]},
    "id": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "python": {"type": "dict"},
}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": PROPERTIES}}}]


def xml(**parameters: str) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function=find>\n{inner}</function>\n</tool_call>"


def js(**arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': 'find', 'arguments': arguments})}</tool_call>"


def only(text: str) -> Call:
    (call,) = calls_of(text, TOOLS)
    return call


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("count", "7", 7),
        ("count", " 7 ", 7),
        ("count", "7.0", 7),
        ("share", "0.5", 0.5),
        ("share", "2", 2),
        ("exact", "true", True),
        ("exact", "False", False),
        ("tags", '["a", 1]', ["a", 1]),
        ("options", '{"a": {"b": null}}', {"a": {"b": None}}),
        ("python", '{"a": 1}', {"a": 1}),
        ("limit", "null", None),
        ("id", "7", 7),
        ("id", "x7", "x7"),
        ("title", "7", "7"),
        ("title", "null", "null"),
        ("title", "two\n\nlines ", "two\n\nlines "),
        ("title", "<b>&amp;</b>", "<b>&amp;</b>"),
        ("unknown", "7", "7"),
    ],
)
def test_a_parameter_of_the_xml_form_has_the_type_of_its_schema(key: str, written: str, value: object) -> None:
    call = only(xml(**{key: written}))
    assert call == Call("find", {key: value})
    assert type(call.arguments[key]) is type(value)


def test_without_a_schema_every_parameter_is_text() -> None:
    assert calls_of(xml(count="7", exact="true")) == [Call("find", {"count": "7", "exact": "true"})]


def test_forms_and_several_calls_may_be_mixed_with_text_between() -> None:
    text = f"First this: {xml(count='1')} and {js(count=2)}\n<tool_call><function=find></function></tool_call> done"
    assert [call.arguments for call in calls_of(text, TOOLS)] == [{"count": 1}, {"count": 2}, {}]


def test_text_without_a_call_has_none() -> None:
    for text in ("", "no", "</tool_call>", "<function=find></function>", '{"name": "find", "arguments": {}}'):
        assert calls_of(text, TOOLS) == []


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>find()</tool_call>",
        '<tool_call>{"name": "find", "arguments": {}}',
        '<tool_call>{"name": "find", "arguments": {}} and more</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "find", "arguments": "x=1"}</tool_call>',
        '<tool_call>[{"name": "find", "arguments": {}}]</tool_call>',
        '<tool_call>{"name": "find", "name": "find", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"a": 1, "a": 2}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"a": "\\ud800"}}</tool_call>',
        f'<tool_call>{{"name": "find", "arguments": {{"a": {"9" * 5000}}}}}</tool_call>',
        js(a="\ud800"),
        xml(title="\ud800"),
        js(a=json.loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))),
        "<tool_call><function=></function></tool_call>",
        "<tool_call><function=find</tool_call>",
        "<tool_call><function=find>count=1</function></tool_call>",
        "<tool_call><function=find><parameter=count>1</function></tool_call>",
        "<tool_call><function=find><parameter=count>1</parameter></tool_call>",
        "<tool_call><function=find></function>",
        xml(count="seven"),
        xml(count="7.5"),
        xml(exact="yes"),
        xml(tags="a, b"),
        xml(tags="[" * 100 + "]" * 100),
        "<tool_call><function=find><parameter=count>1</parameter><parameter=count>2</parameter></function></tool_call>",
    ],
)
def test_what_cannot_be_read_is_one_call_that_says_why(text: str) -> None:
    call = only(text)
    assert call.problem
    assert call.name == ""
    assert call.arguments == {}


def test_a_malformed_call_does_not_hide_the_next_and_is_told_how_to_write_it() -> None:
    bad_json, bad_xml, good = calls_of(f"<tool_call>{{</tool_call>{xml(count='x')}{js(count=1)}", TOOLS)
    assert '{"name": "NAME"' in bad_json.problem
    assert "<function=NAME>" in bad_xml.problem
    assert "`count` is not of type integer" in bad_xml.problem
    assert good == Call("find", {"count": 1})


def test_arguments_may_be_json_text_or_left_out() -> None:
    for arguments in ('{"count": 1}', {"count": 1}):
        assert only(f"<tool_call>{json.dumps({'name': 'find', 'arguments': arguments})}</tool_call>").arguments == {
            "count": 1
        }
    for written in ('{"name": "find"}', '{"name": "find", "arguments": null}', '{"name": "find", "arguments": ""}'):
        assert only(f"<tool_call>{written}</tool_call>") == Call("find", {})


def test_calls_of_messages_come_back_whatever_tags_their_strings_hold() -> None:
    values = [
        "</tool_call><tool_call>",
        "</think>",
        "</parameter></function></tool_call>",
        'quo"te\\',
        "é\n\u2028",
        "</b>",
    ]
    calls = [{"type": "function", "function": {"name": "find", "arguments": {"title": value}}} for value in values]
    text = call_text(calls)
    assert "</think>" not in text
    assert [call.arguments["title"] for call in calls_of(text)] == values


def test_the_xml_form_is_written_as_it_is_read() -> None:
    arguments = {"count": 7, "title": "two\n\nlines\n", "tags": ["a", None], "exact": True, "limit": None, "share": 0.5}
    text = xml_text([{"name": "find", "arguments": arguments}, {"name": "find", "arguments": {}}])
    assert "<parameter=count>\n7\n</parameter>" in text
    assert [call.arguments for call in calls_of(text, TOOLS)] == [arguments, {}]
    for value in ("</parameter></function></tool_call>", "</think>"):
        text = xml_text([{"name": "find", "arguments": {"title": value}}])
        assert only(text).arguments == {"title": value}


def test_messages_of_any_form_become_text() -> None:
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    calls = [{"name": "a", "arguments": "[" * 100_000}, {"function": 3}, 4, {"name": "b", "arguments": {"x": deep}}, {}]
    read = calls_of(call_text(calls))  # type: ignore[arg-type]
    assert len(read) == 5
    assert all(call.problem for call in read)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 450_000,
        "x" * 5_000_000 + "<tool_call>",
        "<tool_call>" * 36_000,
        '<tool_call>{"a":"' * 20_000,
        '<tool_call>"</tool_call>' * 16_000,
        "<tool_call>" + "[" * 390_000,
        "<tool_call>" + '{"a":' * 70_000,
        "<tool_call>" + " " * 390_000,
        "<tool_call><function=find>" + "<parameter=a>" * 25_000,
        "<tool_call><function=" * 15_000,
        "<tool_call><function=find>" + "<parameter=a></parameter>" * 15_000,
        js() * (MAX_CALLS + 1),
        js() * 6_000,
    ],
)
def test_hostile_text_is_refused_in_time(text: str) -> None:
    started = time.perf_counter()
    calls = calls_of(text, TOOLS)
    assert time.perf_counter() - started < 1.0
    assert len(calls) <= MAX_CALLS
    assert all(call.problem for call in calls)


def test_as_many_calls_as_allowed_are_read() -> None:
    assert [call.problem for call in calls_of(js() * MAX_CALLS, TOOLS)] == [""] * MAX_CALLS
    assert len(calls_of(js(title="x" * (MAX_CHARACTERS - 100)), TOOLS)[0].arguments["title"]) == MAX_CHARACTERS - 100
    assert only(js(title="x" * MAX_CHARACTERS)).problem
    assert only("x" * MAX_CHARACTERS + js()).problem
