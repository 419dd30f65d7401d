"""Whether what a program wrote is right: comparison in bytes, outside of the sandbox, of outputs that nobody trusts.

A checker that is a program of the row runs in a room of its own: see `code_judge_program`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cascade.environments.code_values import canonical
from cascade.errors import DataError
from cascade.naming import nearest

TOLERANCE = 1e-6  # absolute and relative, of `float` without one of its own
LANGUAGES = {"py": "python", "python3": "python", "python": "python", "c++": "cpp", "cpp": "cpp", "c++17": "cpp"}
NUMBER_BYTES = 400  # of a number that is compared as one; a longer one must be equal as text
EXPONENT = 400  # beyond which a number is no number: no float is as large, and no tolerance as small

_NUMBER = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_WHOLE = re.compile(rb"[+-]?[0-9]+")

NAMES = {
    "exact": "exact",
    "lines": "lines",
    "line": "lines",
    "default": "lines",
    "tokens": "tokens",
    "token": "tokens",
    "words": "tokens",
    "decimals": "decimals",
    "livecodebench": "decimals",
    "unordered_lines": "unordered_lines",
    "unordered": "unordered_lines",
    "set": "unordered_lines",
    "unordered_tokens": "unordered_tokens",
    "float": "float",
    "floats": "float",
    "tolerance": "float",
    "yes_no": "case_insensitive",
    "yesno": "case_insensitive",
    "case_insensitive": "case_insensitive",
    "program": "program",
    "special": "program",
}
"""What rows call a checker, and its name here."""

_ABSOLUTE = ("abs", "absolute", "abs_tol", "atol")
_RELATIVE = ("rel", "relative", "rel_tol", "rtol")
_BOTH = ("eps", "epsilon", "tolerance", "tol")
_SOURCE = ("source", "code", "program")
_KEYS = ("kind", "name", "type", "language", "ignore_case", *_ABSOLUTE, *_RELATIVE, *_BOTH, *_SOURCE)


@dataclass(frozen=True, slots=True)
class Checker:
    """How a row's outputs are compared, e.g. `Checker("float", absolute=1e-9)`."""

    kind: str = "lines"
    absolute: float = 0.0
    relative: float = 0.0
    ignore_case: bool = False
    language: str = "python"  # of a program
    source: str = ""


def checker_of(told: Any, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A row's `checker` as plain data: a name, an object, or the source of a program. Raises `DataError`."""
    told = (default or {"kind": "lines"}) if told is None else told
    if isinstance(told, str):
        told = {"kind": "program", "source": told} if "\n" in told.strip() else {"kind": told}
    if not isinstance(told, Mapping):
        raise DataError(f"The checker is {type(told).__name__}.", "Give a name, or an object with `kind`.")
    if unknown := next((key for key in told if key not in _KEYS), None):
        raise DataError(f"The checker has a key `{unknown}`.", nearest(str(unknown), _KEYS, "key"))
    source = _first(told, _SOURCE)
    kind = _first(told, ("kind", "name", "type")) or ("program" if source else "lines")
    known = NAMES.get(kind.strip().lower().replace("-", "_").replace("/", "_")) if isinstance(kind, str) else None
    if known is None:
        raise DataError(f"The checker is {kind!r:.60}.", nearest(str(kind), NAMES, "checker"))
    data: dict[str, Any] = {"kind": known}
    if known == "float":
        data.update(_tolerances(told))
    if told.get("ignore_case"):
        data["ignore_case"] = True
    if known == "program":
        data.update(_program(told, source))
    return data


def read_checker(data: Mapping[str, Any]) -> Checker:
    """The checker that `checker_of` made plain."""
    return Checker(**data)


def matches(checker: Checker, output: bytes, expected: bytes) -> bool:
    """Whether an output is right. Never raises, whatever the output holds."""
    if checker.kind == "exact":
        return output == expected
    if checker.ignore_case or checker.kind == "case_insensitive":
        output, expected = output.lower(), expected.lower()  # of bytes: ASCII alone
    if checker.kind == "lines":
        return _lines(output) == _lines(expected)
    if checker.kind == "decimals":
        return _same_decimals(output.strip(), expected.strip())
    if checker.kind == "unordered_lines":
        return Counter(_stripped(output)) == Counter(_stripped(expected))
    ours, theirs = output.split(), expected.split()
    if checker.kind == "unordered_tokens":
        return Counter(ours) == Counter(theirs)
    if len(ours) != len(theirs):
        return False
    if checker.kind == "float":
        return all(_close(checker, *pair) for pair in zip(ours, theirs, strict=True))
    return ours == theirs


def values_match(checker: Checker, value: Any, expected: Any) -> bool:
    """Whether a value that a function returned, as JSON has it, is the expected one.

    Whole numbers must be equal, other numbers within the tolerance of `float`, or one part in 100,000, as
    LiveCodeBench has it for single numbers.
    """
    if checker.kind == "unordered_lines" and isinstance(value, list) and isinstance(expected, list):
        try:
            return Counter(map(canonical, value)) == Counter(map(canonical, expected))
        except RecursionError:
            return False
    exact = checker.kind == "exact"
    absolute, relative = (checker.absolute, checker.relative) if checker.kind == "float" else (1e-8, 1e-5)
    todo = [(value, expected)]
    while todo:
        ours, theirs = todo.pop()
        if isinstance(ours, list) and isinstance(theirs, list):
            if len(ours) != len(theirs):
                return False
            todo.extend(zip(ours, theirs, strict=True))
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            if ours.keys() != theirs.keys():
                return False
            todo.extend((ours[key], theirs[key]) for key in ours)
        elif ours == theirs:
            continue
        elif exact or not _near(ours, theirs, absolute, relative):
            return False
    return True


def _near(ours: Any, theirs: Any, absolute: float, relative: float) -> bool:
    numbers = [value for value in (ours, theirs) if isinstance(value, (int, float))]
    if len(numbers) != 2 or all(isinstance(value, int) for value in numbers):
        return False
    try:
        gap = abs(float(ours) - float(theirs))
        return gap <= max(absolute, relative * abs(float(theirs)))  # false where one of them is NaN
    except OverflowError:
        return False


def _lines(text: bytes) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n")]


def _stripped(text: bytes) -> list[bytes]:
    return [line.strip() for line in text.split(b"\n") if line.strip()]


def _same_decimals(output: bytes, expected: bytes) -> bool:
    """Line by line equal as text, or as numbers: `1.0` for `1`, as LiveCodeBench has it."""
    ours, theirs = output.split(b"\n"), expected.split(b"\n")
    return len(ours) == len(theirs) and all(
        one.strip() == other.strip() or _equal_numbers(one.split(), other.split())
        for one, other in zip(ours, theirs, strict=True)
    )


def _equal_numbers(ours: Sequence[bytes], theirs: Sequence[bytes]) -> bool:
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if not (_is_number(one) and _is_number(other) and Decimal(one.decode()) == Decimal(other.decode())):
            return False
    return True


def _close(checker: Checker, token: bytes, expected: bytes) -> bool:
    """Equal as text, or as numbers within the tolerance; whole numbers must be equal."""
    if token == expected:
        return True
    if not (_is_number(token) and _is_number(expected)):
        return False
    if _WHOLE.fullmatch(token) and _WHOLE.fullmatch(expected):
        return int(token) == int(expected)
    ours, theirs = Decimal(token.decode()), Decimal(expected.decode())
    return abs(ours - theirs) <= max(Decimal(str(checker.absolute)), Decimal(str(checker.relative)) * abs(theirs))


def _is_number(token: bytes) -> bool:
    """A finite number in ASCII of a size that can be worked with."""
    if len(token) > NUMBER_BYTES or not _NUMBER.fullmatch(token):
        return False
    _, _, exponent = token.lower().partition(b"e")
    return abs(int(exponent or 0)) <= EXPONENT


def _tolerances(told: Mapping[str, Any]) -> dict[str, float]:
    both, absolute, relative = (_first(told, keys) for keys in (_BOTH, _ABSOLUTE, _RELATIVE))
    if absolute is None and relative is None:
        both = TOLERANCE if both is None else both
    found = {"absolute": both if absolute is None else absolute, "relative": both if relative is None else relative}
    data = {}
    for name, value in found.items():
        if value is None:
            value = 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise DataError(f"The checker's {name} tolerance is {value!r:.40}.", "Give a number, e.g. 1e-6.")
        data[name] = float(value)
    return data


def _program(told: Mapping[str, Any], source: Any) -> dict[str, str]:
    if not isinstance(source, str) or not source.strip():
        raise DataError("The checker is a program without `source`.", "Give the text of a program.")
    language = told.get("language") or ("cpp" if "#include" in source else "python")
    if not isinstance(language, str) or language.lower() not in LANGUAGES:
        raise DataError(f"The checker's language is {language!r:.40}.", "Give python or cpp.")
    return {"language": LANGUAGES[language.lower()], "source": source}


def _first(told: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((told[key] for key in keys if told.get(key) is not None), None)
