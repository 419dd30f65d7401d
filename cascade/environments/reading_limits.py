"""What no text may hold, in whatever format it is read."""

from __future__ import annotations

import math
from typing import Any

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 64  # of lists and objects within each other
MAX_VALUES = 200_000  # with every alias of YAML spelled out
MAX_DIGITS = 4300  # of a whole number, as `int` has it: longer ones take quadratic time


class UnreadableError(ValueError):
    """Why a text cannot be read."""


def distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Pairs as a dictionary. Raises `UnreadableError` for a key given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableError("a key is given twice")
    return found


def finite(text: str | float) -> float:
    """The number that a text is. Raises `ValueError` for no number, NaN, and what is too large."""
    number = float(text)
    if not math.isfinite(number):
        raise UnreadableError(f"{str(text)[:20]} is no finite number")
    return number


def refuse_large(value: Any) -> None:
    """Raises `UnreadableError` where aliases or nesting make more of a text than its length tells."""
    count, level = 1, [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, dict | list | tuple | set)]
        if not level:
            return
        below: list[Any] = []
        for item in level:
            below.extend(item.values() if isinstance(item, dict) else item)
            if count + len(below) > MAX_VALUES:
                raise UnreadableError(f"it holds more than {MAX_VALUES} values")
        count, level = count + len(below), below
    raise UnreadableError("it is nested too deep")
