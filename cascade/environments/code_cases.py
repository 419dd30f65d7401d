"""Tests of a row one by one, in the forms that people write them: texts of a whole program, or calls of a function."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cascade.environments.code_values import UnreadableValueError, read_value
from cascade.errors import DataError

FUNCTIONS = ("fn_name", "function", "func_name", "entry_point")
INPUTS, OUTPUTS = ("inputs", "input"), ("outputs", "output", "expected_output", "expected", "answer", "answers")
SEVERAL = ("accepted", "any_of", "answers")  # keys of a test under which several outputs are right


def pairs_of(told: Any) -> tuple[list[Mapping[str, Any]], str]:
    """Tests as objects, of a list of them, or of lists side by side; and the name of their function."""
    told = decoded(told, "The tests")
    if told is None:
        return [], ""
    if isinstance(told, Mapping):
        inputs, outputs = first_of(told, INPUTS), first_of(told, OUTPUTS)
        if not isinstance(inputs, list) or not isinstance(outputs, list):
            raise DataError("The tests have no lists of inputs and outputs.", "Give `inputs` and `outputs`.")
        if len(inputs) != len(outputs):
            raise DataError(f"There are {len(inputs)} inputs and {len(outputs)} outputs.", "Give one output an input.")
        lists = [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=True)]
        return [{**case, "lines": True} for case in lists], text_of(told, FUNCTIONS)
    if not isinstance(told, Sequence) or isinstance(told, (str, bytes)):
        raise DataError(f"The tests are {type(told).__name__}.", "Give a list of objects with `input` and `output`.")
    for number, case in enumerate(told):
        if not isinstance(case, Mapping):
            raise DataError(f"Test {number} is {type(case).__name__}.", "Give objects with `input` and `output`.")
    named = next((name for case in told if (name := text_of(case, FUNCTIONS))), "")
    return list(told), named


def test_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """A test of a whole program: text in, and the text that is right, or a list of texts any of which is."""
    given = first_of(case, INPUTS)
    several = first_of(case, SEVERAL)
    right = several if isinstance(several, list) else first_of(case, OUTPUTS)
    if isinstance(right, list) and case.get("lines"):
        right = _lines(right)  # lists side by side: APPS writes some outputs as lists of lines
    if isinstance(given, list):
        given = _lines(given)
    if not isinstance(given, str):
        raise DataError(f"The input of a test is {given!r:.60}.", "Give text.")
    if not isinstance(right, str) and not (_texts(right) and right):
        raise DataError(f"The output of a test is {right!r:.60}.", "Give text, or a list of texts, each of them right.")
    return {"input": given, "output": right}


def call_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """A call of a function. Text is JSON, an argument a line, as LiveCodeBench has it; all else are values."""
    given = first_of(case, ("args", "arguments", "kwargs", *INPUTS))
    right = first_of(case, OUTPUTS)
    if isinstance(given, str):
        values = [_value(line) for line in given.split("\n") if line.strip()]
        if not isinstance(right, str):
            raise DataError(f"The output of a call is {right!r:.60}.", "Give it as JSON text, like the input.")
        return {"args": values, "any_of": [_value(right)]}
    if not isinstance(given, (list, Mapping)) or not any(key in case for key in OUTPUTS):
        raise DataError(f"The arguments of a call are {given!r:.60}.", "Give a list, an object, or lines of JSON.")
    accepted = [right, *right] if case.get("lines") and isinstance(right, list) and len(right) == 1 else [right]
    return {"kwargs" if isinstance(given, Mapping) else "args": given, "any_of": accepted}


def _value(line: str) -> Any:
    try:
        return read_value(line)
    except UnreadableValueError as error:
        raise DataError(f"A call has {line!r:.60}, which is not JSON: {error}.", "Give an argument a line.") from None


def _lines(items: Sequence[Any]) -> str:
    if not all(isinstance(item, str) for item in items):
        raise DataError(f"A test has {items!r:.60}.", "Give text, or a list of lines.")
    return "\n".join(items)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def decoded(told: Any, what: str) -> Any:
    """Text as the JSON value that it is, and any other value as it is. Raises `DataError`."""
    if not isinstance(told, str):
        return told
    try:
        return json.loads(told)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be read as JSON: {error}.", "Give a list or an object.") from None


def text_of(record: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of the keys that holds text."""
    return next((value for key in keys if isinstance(value := record.get(key), str) and value.strip()), "")


def first_of(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first of the keys that holds anything."""
    return next((record[key] for key in keys if record.get(key) is not None), None)
