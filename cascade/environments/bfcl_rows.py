"""Rows of the Berkeley Function Calling Leaderboard as its environment has them, and its functions as JSON schemas."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from cascade.environments.bfcl_simulators import CLASSES, documentation, records_of
from cascade.environments.python_calls import python_calls
from cascade.environments.records import chat_message
from cascade.errors import DataError

MULTI_TURN = ("multi_turn_base", "multi_turn_long_context", "multi_turn_miss_func", "multi_turn_miss_param")
NO_CALL = ("irrelevance", "live_irrelevance")
ANY_CALL = ("live_relevance",)
COMPARED = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def row_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What scoring needs of a record, with the gold calls of the package where it brings none. Raises `DataError`.

    Episodes have `classes`, `config`, `gold`, `excluded` and `missed`; single calls `function` and `ground_truth`.
    """
    identity = record.get("id")
    if not isinstance(identity, str):
        raise DataError("The row has no `id`.", "Give rows as bfcl-eval has them.")
    category = identity.rsplit("_", 1)[0]
    if category not in (*MULTI_TURN, *NO_CALL, *ANY_CALL, *COMPARED):
        raise DataError(f"{identity} is of no category that is scored here.", "Leave it out.")
    if "ground_truth" not in record and category not in (*NO_CALL, *ANY_CALL):
        record = {**records_of(category).get(identity, {}), **record}
    question, truth = record.get("question"), record.get("ground_truth", [])
    if not isinstance(question, list) or not question or not all(isinstance(turn, list) for turn in question):
        raise DataError(f"{identity} has no `question`.", "Give a list of messages a turn of the user.")
    question = [[dict(chat_message(message)) for message in turn] for turn in question]
    if not isinstance(truth, list) or not (truth or category in (*NO_CALL, *ANY_CALL)):
        raise DataError(f"{identity} has no `ground_truth`.", "Give it as bfcl-eval's possible_answer has it.")
    data = {"id": identity, "category": category, "question": question}
    if category in MULTI_TURN:
        return {**data, **_episode_fields(identity, record, question, truth)}
    functions = _functions(identity, record)
    if not all(_is_expected(call) for call in truth):
        raise DataError(
            f"{identity} has another `ground_truth`.", "Give {name: {parameter: [possible values]}} a call."
        )
    if not functions and truth:
        raise DataError(f"{identity} has no `function`.", "Give a list of objects with `name` and `parameters`.")
    return {**data, "function": functions, "ground_truth": truth}


def _episode_fields(
    identity: str, record: Mapping[str, Any], question: Sequence[Any], truth: Sequence[Any]
) -> dict[str, Any]:
    classes = record.get("involved_classes")
    if not isinstance(classes, list) or not classes or not set(classes) <= set(CLASSES):
        raise DataError(f"{identity} involves {classes}.", f"Name some of {', '.join(CLASSES)}.")
    if len(truth) != len(question) or not all(isinstance(turn, list) for turn in truth):
        raise DataError(f"{identity} has {len(truth)} turns of gold calls.", f"Give {len(question)}, one a question.")
    found = {key: record.get(key) or {} for key in ("initial_config", "missed_function")}
    excluded = record.get("excluded_function") or []
    if not all(isinstance(value, Mapping) for value in found.values()) or not isinstance(excluded, list):
        raise DataError(f"{identity} has another form.", "Give `initial_config` and the rest as bfcl-eval has them.")
    return {
        "classes": classes,
        "config": found["initial_config"],
        "gold": [[_gold_call(identity, text) for text in turn] for turn in truth],
        "excluded": excluded,
        "missed": found["missed_function"],
    }


def _gold_call(identity: str, text: Any) -> dict[str, Any]:
    calls = python_calls(text) if isinstance(text, str) else None
    if not calls or len(calls) != 1:
        raise DataError(f"{identity} has the gold call {str(text)[:80]!r}.", "Give one call of literals.")
    return {"name": calls[0].name, "positional": list(calls[0].positional), "arguments": dict(calls[0].arguments)}


def _functions(identity: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    functions = record.get("function")
    if not isinstance(functions, list) or not all(_is_function(function) for function in functions):
        raise DataError(f"{identity} has no `function`.", "Give a list of objects with `name` and `parameters`.")
    return functions


def _is_expected(call: Any) -> bool:
    values = next(iter(call.values())) if isinstance(call, Mapping) and len(call) == 1 else None
    return isinstance(values, Mapping) and all(isinstance(possible, list) for possible in values.values())


def _is_function(function: Any) -> bool:
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    return isinstance(parameters, Mapping) and isinstance(parameters.get("properties"), Mapping) and "name" in function


def arguments_by_name(classes: Sequence[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a gold call, with names for those that it gives by position."""
    described = (known["function"] for known in tools_of(tuple(classes), frozenset()))
    function = next((known for known in described if known["name"] == call["name"]), None)
    names = list(function["parameters"]["properties"]) if function else []
    return {**dict(zip(names, call["positional"], strict=False)), **call["arguments"]}


@functools.lru_cache(maxsize=512)
def tools_of(classes: tuple[str, ...], held_back: frozenset[str]) -> list[dict[str, Any]]:
    """The functions of some classes, without those that are held back."""
    return [tool(function) for name in classes for function in documentation(name) if function["name"] not in held_back]


def tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as chat completions describe it."""
    shown = {"name": function["name"], "description": function.get("description", "")}
    return {"type": "function", "function": {**shown, "parameters": _schema(function["parameters"])}}


def _schema(value: Any) -> Any:
    """A schema with the names of JSON's types in place of Python's."""
    if isinstance(value, Mapping):
        return {
            key: _JSON_TYPES.get(item, item) if key == "type" and isinstance(item, str) else _schema(item)
            for key, item in value.items()
        }
    return [_schema(item) for item in value] if isinstance(value, list) else value
