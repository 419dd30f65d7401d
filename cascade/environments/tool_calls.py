"""Calls of tools as the model writes them: in the paper's XML form and in JSON.

Nemotron-Cascade 2 (arXiv 2603.19220, figure 1) has a call a block, one tag a line:

    <tool_call>
    <function=add>
    <parameter=a>
    1
    </parameter>
    </function>
    </tool_call>

Its predecessor and the Hermes models have JSON within: `<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cascade.environments.reading_limits import MAX_DEPTH, UnreadableError, distinct, finite, refuse_large

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 256  # in a turn
MAX_CHARACTERS = 400_000  # of a turn that calls: what bounds the time that hostile text takes
HOW_JSON = f'Write {OPEN}{{"name": "NAME", "arguments": {{"KEY": VALUE}}}}{CLOSE}.'
HOW_XML = f"Write {OPEN}<function=NAME><parameter=KEY>VALUE</parameter></function>{CLOSE}."
_CLOSING = re.compile(r"</(think>|tool_call>)")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^<>\n]{1,256}")
_AS_IN_JSON = {"int": "integer", "float": "number", "bool": "boolean", "dict": "object", "list": "array"}
_AS_IN_JSON |= {"str": "string", "tuple": "array"}  # names of types that people have in schemas all the same


@dataclass(frozen=True, slots=True)
class Call:
    """One call, e.g. `Call("add", {"a": 1, "b": 2})`; or, with a `problem`, one that cannot be read."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""  # what is wrong with it and how to write it, for the model to read; empty for a good call


def calls_of(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> list[Call]:
    """Every call of a turn, in order; the empty list for a turn that calls nothing. Never raises, in linear time.

    Values of the XML form are text. They are read as the types that the schemas in `tools` (in the form of chat
    completions) give them, and stay text without. A turn of more than `MAX_CALLS` calls or, with a call in it, of more
    than `MAX_CHARACTERS` is one call with a problem. Duplicate keys, NaN, infinities and deep nesting are problems.
    """
    calls: list[Call] = []
    at = text.find(OPEN)
    if at < 0:
        return calls
    if len(text) > MAX_CHARACTERS:
        return [Call("", {}, f"The turn has more than {MAX_CHARACTERS} characters: nothing was called. Write less.")]
    if not _is_unicode(text):
        return [Call("", {}, "The turn holds half a surrogate pair: nothing was called. Write characters.")]
    while at >= 0:
        if len(calls) == MAX_CALLS:
            return [Call("", {}, f"The turn has more than {MAX_CALLS} calls: nothing was called. Call fewer at once.")]
        start = _skip(text, at + len(OPEN))
        in_xml = text.startswith("<", start)
        try:
            call, end = _xml_call(text, start, tools) if in_xml else _json_call(text, start)
            end = _skip(text, end)
            if not text.startswith(CLOSE, end):
                raise UnreadableError(f"{CLOSE} is missing behind the call")
            calls.append(call)
        except UnreadableError as error:
            calls.append(Call("", {}, f"This call cannot be read: {error}. {HOW_XML if in_xml else HOW_JSON}"))
            end = text.find(CLOSE, start)
            if end < 0:
                break
        at = text.find(OPEN, end + len(CLOSE))
    return calls


def call_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as text, in the JSON form: `<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`, one a line.

    Takes them in the form of chat completions (`function` inside) or of the Responses API (`name`, `arguments`).
    Closing tags within strings are escaped as JSON allows, so that whoever splits text at tags never splits a string.
    """
    texts = (_CLOSING.sub(r"<\\/\1", json.dumps(_named(call), ensure_ascii=False)) for call in calls)
    return "\n".join(f"{OPEN}{text}{CLOSE}" for text in texts)


def xml_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as text, in the paper's form; in the JSON form where a value holds a closing tag."""
    return "\n".join(_in_xml(call) or call_text([call]) for call in calls)


def _in_xml(call: Mapping[str, Any]) -> str | None:
    named = _named(call)
    if not isinstance(named["arguments"], Mapping):
        return None
    lines = [OPEN, f"<function={named['name']}>"]
    for key, value in named["arguments"].items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if "</" in text:
            return None
        lines += [f"<parameter={key}>", text, "</parameter>"]
    return "\n".join([*lines, "</function>", CLOSE])


def _named(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return {"name": None, "arguments": {}}
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(UnreadableError):  # kept as the text it is: who reads the call says what is wrong
            arguments = _whole_json(arguments)
    try:
        refuse_large(arguments)
    except UnreadableError as error:
        arguments = str(error)  # in place of what JSON cannot be written of; no JSON itself
    return {"name": function.get("name"), "arguments": arguments}


def _json_call(text: str, start: int) -> tuple[Call, int]:
    """The call whose JSON begins at `start`, and where it ends. A string in it may hold any tag."""
    value, end = _json_value(text, start)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise UnreadableError("it is not an object with `name` and `arguments`")
    arguments = value.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _whole_json(arguments)
    if not isinstance(arguments, dict):
        raise UnreadableError("`arguments` is not an object")
    return Call(value["name"], arguments), end


def _xml_call(text: str, start: int, tools: Sequence[Mapping[str, Any]] | None) -> tuple[Call, int]:
    """The call whose `<function=` begins at `start`, and where it ends."""
    name, at = _tag(text, start, "<function=")
    properties = _properties(tools, name)
    arguments: dict[str, Any] = {}
    while not text.startswith("</function>", at):
        key, begin = _tag(text, at, "<parameter=", skip=False)
        end = text.find("</parameter>", begin)
        if end < 0:
            raise UnreadableError(f"</parameter> is missing behind `{key}`")
        if key in arguments:
            raise UnreadableError(f"`{key}` is given twice")
        arguments[key] = _typed(text[begin:end].removeprefix("\n").removesuffix("\n"), properties.get(key), key)
        at = _skip(text, end + len("</parameter>"))
    return Call(name, arguments), at + len("</function>")


def _tag(text: str, at: int, opening: str, skip: bool = True) -> tuple[str, int]:
    """What a tag such as `<function=NAME>` names, and where the text behind it begins."""
    found = _NAME.match(text, at + len(opening)) if text.startswith(opening, at) else None
    if found is None or not text.startswith(">", found.end()):
        raise UnreadableError(f"{opening}NAME> is missing" if opening == "<function=" else "</function> is missing")
    end = found.end() + 1
    return found[0].strip(), _skip(text, end) if skip else end


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _properties(tools: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    """The schemas of a tool's parameters by their names; empty where there is none."""
    for tool in tools or ():
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def _typed(text: str, schema: Any, key: str) -> Any:
    """The value that a text is by its schema, as text where the schema allows text or says nothing."""
    types = _types(schema)
    if not types or types == {"string"}:
        return text
    try:
        value = _whole_json({"True": "true", "False": "false"}.get(text.strip(), text))
    except UnreadableError:
        pass
    else:
        if "any" in types or any(_IS[kind](value) for kind in types & _IS.keys()):
            return int(value) if "integer" in types and isinstance(value, float) and value.is_integer() else value
    if types & {"string", "any"} or not types & _IS.keys():
        return text
    raise UnreadableError(f"the value of `{key}` is not of type {' or '.join(sorted(types))}")


def _types(schema: Any) -> set[str]:
    """The names of the types a schema allows, as JSON Schema has them; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    branches = [schema]
    for key in ("anyOf", "oneOf"):
        branches += schema[key] if isinstance(schema.get(key), list) else []
    types: list[Any] = []
    for branch in branches:
        said = branch.get("type") if isinstance(branch, Mapping) else None
        types += said if isinstance(said, list) else [said]
    return {_AS_IN_JSON.get(kind, kind) for kind in types if isinstance(kind, str)}


def _is_whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


_IS: dict[str, Callable[[Any], bool]] = {
    "integer": _is_whole,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: type(value) is bool,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def _whole_json(text: str) -> Any:
    value, end = _json_value(text, _skip(text, 0))
    if text[end:].strip():
        raise UnreadableError("there is text behind the JSON")
    return value


def _json_value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise UnreadableError("it is nested too deep") from None
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError(f"it is not JSON ({str(error)[:80]})") from None
    if text.count("{", start, end) + text.count("[", start, end) > MAX_DEPTH:
        refuse_large(value)
    if "\\ud" in text[start:end].lower() and not _is_unicode(json.dumps(value, ensure_ascii=False)):
        raise UnreadableError("a \\u escape is no character")
    return value, end


def _is_unicode(text: str) -> bool:
    """Whether every character is one: half a surrogate pair is what no tokenizer, file or socket takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no value")


_DECODER = json.JSONDecoder(object_pairs_hook=distinct, parse_float=finite, parse_constant=_no_constant)
