"""Single calls against the possible answers of the Berkeley Function Calling Leaderboard, for Python's types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
OMITTED = ""  # among the possible values: the parameter may be left out

_IGNORED = re.compile(r"[ ,./\-_*^]")


def all_match(
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    expected: Sequence[Mapping[str, Any]],
    functions: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether there are as many calls as expected and each expected one is found among them, in any order.

    An expected call is `{name: {parameter: [possible values]}}`. It takes the first call that fits it.
    """
    if len(calls) != len(expected):
        return False
    left = list(calls)
    for answer in expected:
        fitting = next((call for call in left if matches(*call, answer, functions)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True


def matches(
    name: str, arguments: Mapping[str, Any], expected: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether a call is the expected one: its name, all required parameters, no unknown one, possible values.

    A name may have `_` for `.`, as many interfaces take no dots.
    """
    wanted, possible = next(iter(expected.items()))
    function = next((function for function in functions if function["name"] == wanted), functions[0])
    if name not in (wanted, wanted.replace(".", "_")):
        return False
    properties = function["parameters"]["properties"]
    if not all(parameter in arguments for parameter in function["parameters"].get("required", ())):
        return False
    if not all(parameter in arguments or OMITTED in values for parameter, values in possible.items()):
        return False
    return all(
        parameter in properties and parameter in possible and fits(value, possible[parameter], properties[parameter])
        for parameter, value in arguments.items()
    )


def fits(value: Any, possible: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Whether a value has the parameter's type and is among the possible ones.

    A whole number passes for a float. Texts are compared without case, spaces and `,./-_*^`; lists in order;
    dictionaries by key, where each key has possible values of its own. A value of another type passes where it has
    the type of the first possible one (a variable's name) and equals one of them.
    """
    kind = schema.get("type", "")
    wanted = TYPES.get(kind)
    inner = TYPES.get(schema.get("items", {}).get("type", "")) if kind in ("array", "tuple") else None
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if kind == "float" and type(value) is int:
        value = _float(value)
    first = next((type(answer) for answer in possible if answer != OMITTED), None)
    if type(value) is wanted:
        if inner is not None and not _has_items(value, possible, inner):
            return False
        if first is None or first is wanted:
            return _is_among(value, possible, wanted, inner)
    elif type(value) is not first:
        return False
    return value in possible  # it is the name of a variable


def some_call(expected: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A call that matches an expected one, as `{"name": ..., "arguments": ...}`; None where no value is right."""
    name, possible = next(iter(expected.items()))
    function = next((function for function in functions if function["name"] == name), functions[0])
    properties = function["parameters"]["properties"]
    arguments = {}
    for parameter, values in possible.items():
        chosen = [_concrete(value) for value in values if value != OMITTED]
        right = [value for value in chosen if parameter in properties and fits(value, values, properties[parameter])]
        if right:
            arguments[parameter] = right[0]
        elif OMITTED not in values:
            return None
    return {"name": name, "arguments": arguments} if matches(name, arguments, expected, functions) else None


def _has_items(value: Sequence[Any], possible: Sequence[Any], inner: type) -> bool:
    """Whether the items have the type of the schema, or that of the items of one of the possible lists."""
    for answer in possible:
        if not isinstance(answer, list):
            return True
        first = next((type(item) for item in answer if item != OMITTED), None)
        if all(type(item) is inner or type(item) is first for item in value):
            return True
    return False


def _is_among(value: Any, possible: Sequence[Any], wanted: type | None, inner: type | None) -> bool:
    if wanted is dict:
        return any(_same_dictionary(value, answer) for answer in possible)
    if wanted is list and inner is dict:
        return any(_same_dictionaries(value, answer) for answer in possible)
    if wanted is str:
        return _plain(value) in [_plain(answer) for answer in possible if isinstance(answer, str)]
    if wanted is list:
        return [_plain(item) for item in value] in [
            [_plain(item) for item in answer] for answer in possible if isinstance(answer, list | str)
        ]
    return value in possible


def _same_dictionary(value: Any, answer: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(answer, Mapping):
        return False
    return all(key in value or OMITTED in values for key, values in answer.items()) and all(
        key in answer and _plain(item) in [_plain(possible) for possible in answer[key]] for key, item in value.items()
    )


def _same_dictionaries(value: Sequence[Any], answer: Any) -> bool:
    return len(value) == len(answer) and all(
        _same_dictionary(one, other) for one, other in zip(value, answer, strict=True)
    )


def _plain(value: Any) -> Any:
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _float(value: int) -> float | int:
    try:
        return float(value)
    except OverflowError:
        return value


def _concrete(value: Any) -> Any:
    """A possible value as an argument: of a dictionary the first value of every key that may not be left out."""
    if isinstance(value, Mapping):
        return {key: values[0] for key, values in value.items() if values and OMITTED not in values}
    if isinstance(value, list):
        return [_concrete(item) for item in value]
    return value
