"""Reading a model's answer as a flat JSON object, strictly and without ever raising."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_CHARACTERS = 4096  # an answer of a procedural task is a few dozen; longer ones are not worth parsing


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def read_object(answer: str) -> dict[str, Any] | None:
    """The JSON object an answer is, or None: for text around it, a key given twice, NaN, nesting too deep to parse."""
    if len(answer) > MAX_CHARACTERS:
        return None
    try:
        value = json.loads(answer, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def same_values(found: object, expected: object) -> bool:
    """Equal as JSON values of the same type: key order does not matter, and `true`, `1`, `1.0` and `"1"` all differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same_values(found[key], expected[key]) for key in expected)
    return type(found) is type(expected) and found == expected
