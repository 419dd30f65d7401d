"""Bugs in what stands for a value: constants, defaults, patterns. One kind is one function."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from data.swe_source import Edit, Source, children

LITERAL = re.compile(r"(?s)(?P<prefix>[A-Za-z]*)(?P<quote>'''|\"\"\"|'|\")(?P<body>.*)(?P=quote)")
PATTERN_PIECES = {"+": "*", "*": "+", "?": "", "^": "", "$": "", r"\d": r"\w", r"\w": r"\d", r"\s": r"\S", "0-9": "0-8"}
PIECE = re.compile(r"\\[dws]|(?<!\\)[+*?^$]|0-9")
UNLIKE = {"": " ", " ": "", "-": "_", "_": "-", ".": ",", ",": ".", ":": ";", "/": "-", "+": "-"}


def wrong_constant(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`2` -> `3`, `True` -> `False`; texts and defaults are kinds of their own."""
    for constant in _constants(node):
        if not isinstance(constant.value, str):
            yield from _wrong(source, constant)


def wrong_text(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`"days"` -> `"day"`, `"-"` -> `"_"`; not in messages of exceptions."""
    if isinstance(node, ast.Raise | ast.Assert):
        return
    for constant in _constants(node):
        if isinstance(constant.value, str):
            yield from _wrong(source, constant)


def wrong_default(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`def f(n=2)` -> `def f(n=3)`."""
    if isinstance(node, ast.arguments):
        for default in [*node.defaults, *node.kw_defaults]:
            if isinstance(default, ast.Constant):
                yield from _wrong(source, default)


def wrong_pattern(source: Source, node: ast.AST) -> Iterator[Edit]:
    r"""`r"\d+"` -> `r"\d*"`: a piece of a raw text."""
    for constant in _constants(node):
        literal = LITERAL.fullmatch(source.segment(constant))
        if literal and "r" in literal["prefix"].lower():
            start = source.span(constant)[0] + literal.start("body")
            for piece in PIECE.finditer(literal["body"]):
                yield Edit(start + piece.start(), start + piece.end(), PATTERN_PIECES[piece[0]])


def _constants(node: ast.AST) -> Iterator[ast.Constant]:
    """The constants that are a direct part of a node, but for defaults."""
    if isinstance(node, ast.arguments | ast.JoinedStr):
        return
    if isinstance(node, ast.Call) and _is_message(node):
        return
    yield from (child for child in children(node) if isinstance(child, ast.Constant))


def _is_message(call: ast.Call) -> bool:
    """Whether a call makes an exception or a warning, whose wording no caller depends on."""
    name = ast.unparse(call.func).rsplit(".", 1)[-1]
    return name.endswith(("Error", "Exception", "Warning", "warn"))


def _wrong(source: Source, constant: ast.Constant) -> Iterator[Edit]:
    value, (start, end) = constant.value, source.span(constant)
    if isinstance(value, bool):
        yield Edit(start, end, str(not value))
    elif isinstance(value, int | float):
        yield Edit(start, end, str(value + 1))
        if value > 1:
            yield Edit(start, end, str(value - 1))
    elif isinstance(value, str):
        literal = LITERAL.fullmatch(source.text[start:end])
        if literal and literal["quote"] not in literal["body"]:  # else texts side by side
            body = literal["body"]
            new = UNLIKE.get(body, body[:-1])
            yield Edit(start + literal.start("body"), start + literal.end("body"), new)
