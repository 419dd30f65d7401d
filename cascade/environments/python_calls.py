"""Calls written as Python, e.g. `[cd(folder='docs'), ls(a=True)]`: read, never evaluated."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_CHARACTERS = 20_000  # of a text that is read as calls
MAX_DEPTH = 40  # of values within each other

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class PythonCall:
    """One call, e.g. `PythonCall("cd", (), {"folder": "docs"})`."""

    name: str  # dotted where it is written so
    positional: tuple[Any, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


def python_calls(text: str) -> list[PythonCall] | None:
    """The calls that a text consists of, alone or in a list, with or without its brackets or a code fence.

    None for any other text, also for one with calls within calls. Arguments are literals, arithmetic of numbers with
    + - * and /, and bare words, which are read as text, as the Berkeley leaderboard's reader does. Never raises.
    """
    if len(text) > MAX_CHARACTERS or "(" not in text:
        return None
    source = text.strip("`\n ").removeprefix("python\n").strip("'")
    source = source if source.startswith("[") else f"[{source}"
    source = source if source.endswith("]") else f"{source}]"
    try:
        parsed = ast.parse(source, mode="eval").body
        if not isinstance(parsed, ast.List) or not parsed.elts:
            return None
        return [_call(element) for element in parsed.elts]
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> PythonCall:
    if not isinstance(node, ast.Call):
        raise ValueError("not a call")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise ValueError("arguments that have no name, or the same one")
        arguments[keyword.arg] = _value(keyword.value, 0)
    return PythonCall(_name(node.func), tuple(_value(argument, 0) for argument in node.args), arguments)


def _name(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute) and len(parts) < MAX_DEPTH:
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError("what is called has no name")
    return ".".join([node.id, *reversed(parts)])


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=word):
            return word
        case ast.List(elts=items):
            return [_value(item, depth + 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, depth + 1) for item in items)
        case ast.Dict(keys=keys, values=values):
            return {
                _value(key, depth + 1): _value(value, depth + 1)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            numbers = _number(_value(left, depth + 1)), _number(_value(right, depth + 1))
            return _ARITHMETIC[type(op)](*numbers)
    raise ValueError("not a literal")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return value
