"""Values of functions as JSON text on their way out of the sandbox: read without trusting them."""

from __future__ import annotations

import json
from typing import Any

MAX_DIGITS = 4000  # of a whole number that is read as one; the text of a longer one stands for it


class UnreadableValueError(ValueError):
    """A text that is no value."""


def read_value(text: bytes | str) -> Any:
    """The value of a JSON text. Raises `UnreadableValueError` for anything else, also for one nested too deep."""
    try:
        read = text if isinstance(text, str) else text.decode()  # `json` would guess an encoding
        return json.loads(read, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise UnreadableValueError(f"{type(error).__name__}: {error}"[:200]) from None


def canonical(value: Any) -> str:
    """A text that is the same for equal values, e.g. `[1, "a"]`; equal numbers of two kinds are not equal in it."""
    return json.dumps(value, sort_keys=True)


def _whole(digits: str) -> int | str:
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return digits
