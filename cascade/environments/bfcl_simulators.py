"""The simulated services of the Berkeley Function Calling Leaderboard: found in its package, called, compared.

The package is `bfcl-eval`, whose eight stateful classes (a file system, trading, travel, a vehicle, tickets, messages,
posts, mathematics) are imported one by one: its checker would bring the clients of a dozen services along.
"""

from __future__ import annotations

import contextlib
import copy
import decimal
import functools
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, DataError

INSTALL = "pip install --no-deps bfcl-eval==2026.3.23"
CLASSES = {  # class: the module of its code, and of its documentation
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
STATELESS = ("MathAPI",)
MAX_DIGITS = 2_000  # of a number that a calculation may need or make
MAX_ENTRIES = 20_000  # of a directory and all below it, where a call walks through them


class Simulators:
    """Instances of some of the classes in their initial state, and what their methods do to it."""

    def __init__(self, classes: Sequence[str], config: Mapping[str, Any], long_context: bool = False) -> None:
        self._instances: dict[str, Any] = {}
        self._methods: dict[str, Callable[..., Any]] = {}
        for name in classes:
            instance = _class_of(name)()
            if name not in STATELESS:
                instance._load_scenario(copy.deepcopy(dict(config.get(name, {}))), long_context=long_context)
            if long_context:
                instance = copy.deepcopy(instance)  # it holds parts of its module's tables, which calls would change
            self._instances[name] = instance
            self._methods |= {method: getattr(instance, method) for method in _public_methods(type(instance))}

    def call(self, name: str, positional: Sequence[Any] = (), arguments: Mapping[str, Any] | None = None) -> str:
        """What a call returns, as the leaderboard shows it to the model: JSON or text, or why it failed."""
        arguments = arguments or {}
        method = self._methods.get(name)
        if method is None:
            return f"Error during execution: name '{name[:100]}' is not defined"
        refusal = self._refusal(name, positional, arguments)
        if refusal:
            return f"Error during execution: {refusal}"
        try:
            with _own_precision() if name in _EXACT else contextlib.nullcontext():
                # Copies, as a simulator keeps the lists it is given and changes them later.
                return _shown(method(*copy.deepcopy(positional), **copy.deepcopy(dict(arguments))))
        except Exception as error:  # noqa: BLE001  the model is told whatever a simulator raises, as the leaderboard does
            return f"Error during execution: {error}"

    def same_state(self, other: Simulators) -> bool:
        """Whether all public attributes of all instances are equal."""
        try:
            return all(
                vars(mine).get(key) == value
                for name, theirs in other._instances.items()
                if (mine := self._instances[name]) is not None
                for key, value in vars(theirs).items()
                if not key.startswith("_")
            )
        except RecursionError:  # a directory within itself
            return False

    def _refusal(self, name: str, positional: Sequence[Any], arguments: Mapping[str, Any]) -> str:
        """Why a call is not made that would take for ever; empty for all others."""
        if name in _LARGE:
            with contextlib.suppress(TypeError):  # arguments that do not fit: the call says so itself
                given = inspect.signature(self._methods[name]).bind(*positional, **arguments).arguments
                if _LARGE[name](given):
                    return "the numbers are too large"
        if name in ("find", "du") and not _is_small(getattr(self._instances.get("GorillaFileSystem"), "root", None)):
            return "there are too many files"
        return ""


@functools.cache
def package() -> Path:
    """Where the package lies. Raises `ConfigError` where it is not installed."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        raise ConfigError("BFCL's data and simulators are in `bfcl-eval`, which is not installed.", f"Run {INSTALL}.")
    return Path(spec.origin).parent


@functools.cache
def records_of(category: str) -> Mapping[str, Mapping[str, Any]]:
    """The rows of a category by their ids, with `ground_truth` where it has one. Raises `DataError` for no category."""
    file = package() / "data" / f"BFCL_v4_{category}.json"
    if not category.replace("_", "").isalnum() or not file.is_file():
        known = sorted(path.stem.removeprefix("BFCL_v4_") for path in (package() / "data").glob("BFCL_v4_*.json"))
        raise DataError(f"BFCL has no category {category!r}.", f"It has {', '.join(known)}.")
    answers_file = package() / "data" / "possible_answer" / file.name
    answers = {answer["id"]: answer for answer in _json_lines(answers_file)} if answers_file.is_file() else {}
    return {row["id"]: {**row, **answers.get(row["id"], {})} for row in _json_lines(file)}


@functools.cache
def documentation(name: str) -> Sequence[Mapping[str, Any]]:
    """What the leaderboard shows of a class: one object a function, its types in Python's names."""
    return _json_lines(package() / "data" / "multi_turn_func_doc" / f"{CLASSES[name]}.json")


def _json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


@functools.cache
def _class_of(name: str) -> Any:
    package()
    module = f"bfcl_eval.eval_checker.multi_turn_eval.func_source_code.{CLASSES[name]}"
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"BFCL's {name} cannot be imported: {error}.", "Install what it names.") from None


@functools.cache
def _public_methods(cls: type) -> tuple[str, ...]:
    return tuple(name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_"))


def _shown(result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            pass  # a number of mpmath or decimal
    return str(result)


_EXACT = ("logarithm", "square_root")  # they set the precision of the whole process


@contextlib.contextmanager
def _own_precision() -> Iterator[None]:
    import mpmath

    with decimal.localcontext(), mpmath.workdps(mpmath.mp.dps):
        yield


def _is_large(value: Any) -> bool:
    """Also for text, since mpmath reads a precision out of it."""
    return (isinstance(value, int | float) and not -MAX_DIGITS <= value <= MAX_DIGITS) or isinstance(value, str)


def _is_large_power(given: Mapping[str, Any]) -> bool:
    base, exponent = given.get("base"), given.get("exponent")
    return isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > 4 * MAX_DIGITS


_LARGE: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "power": _is_large_power,
    "logarithm": lambda given: _is_large(given.get("precision")),
    "square_root": lambda given: _is_large(given.get("precision")),
    "round_number": lambda given: _is_large(given.get("decimal_places", 0)),
}


def _is_small(root: Any) -> bool:
    """Whether a directory has at most `MAX_ENTRIES` below it; one that was copied into itself has no end."""
    waiting, seen = [root], 0
    while waiting:
        contents = getattr(waiting.pop(), "contents", {})
        seen += len(contents)
        if seen > MAX_ENTRIES:
            return False
        waiting.extend(item for item in contents.values() if hasattr(item, "contents"))
    return True
