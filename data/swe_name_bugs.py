"""Bugs in names and calls: a wrong variable, a sister function, swapped or lost arguments. One kind, one function."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from data.swe_expression_bugs import swapped
from data.swe_source import Edit, Source, walk

SISTERS = [
    ("min", "max"), ("any", "all"), ("lower", "upper"), ("startswith", "endswith"), ("lstrip", "rstrip"),
    ("find", "rfind"), ("index", "rindex"), ("split", "rsplit"), ("partition", "rpartition"), ("keys", "values"),
    ("pop", "popleft"), ("append", "appendleft"), ("floor", "ceil"), ("match", "search"), ("add", "discard"),
    ("isinstance", "issubclass"), ("islower", "isupper"), ("first", "last"), ("days", "seconds"),
    ("sum", "len"), ("tuple", "list"), ("hours", "minutes"), ("years", "months"), ("reversed", "iter"),
]  # fmt: skip
SISTER = {old: new for pair in SISTERS for old, new in (pair, pair[::-1])}
SISTER |= {"strip": "lstrip", "sorted": "list", "setdefault": "get", "title": "upper", "capitalize": "lower"}
BOUND = ("self", "cls", "mcs")


def sister_function(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`min(a)` -> `max(a)`, `text.lower()` -> `text.upper()`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        end = source.span(node.func)[1]
        if name in SISTER:
            yield Edit(end - len(name), end, SISTER[name])


def swapped_arguments(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`f(a, b)` -> `f(b, a)`, of each pair of neighbours."""
    if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
        for first, second in zip(node.args, node.args[1:], strict=False):
            yield swapped(source, first, second)


def forgotten_keyword(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`f(a, key=b)` -> `f(a)`."""
    if not isinstance(node, ast.Call):
        return
    for keyword in node.keywords:
        start, end = source.span(keyword)
        before = source.words_between(source.span(node.func)[1], start)
        if before and before[-1].text == ",":
            yield Edit(before[-1].start, end, "")
        elif (after := source.words_between(end, source.span(node)[1])) and after[0].text == ",":
            yield Edit(start, after[1].start, "")
        else:
            yield Edit(start, end, "")


def range_bound(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`range(n)` -> `range(n - 1)`, `range(1, n)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and node.args:
        start, end = source.span(node.args[0 if len(node.args) == 1 else 1])
        yield Edit(end, end, " - 1")
        if len(node.args) == 1:
            yield Edit(start, start, "1, ")


def wrong_variable(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`f(a)` -> `f(b)`, where `b` is another variable of the same function that has a value there."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    arguments = node.args
    known = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if a.arg not in BOUND]
    own = list(_own(node))
    called = {id(found.func) for found in own if isinstance(found, ast.Call)}
    names = sorted((found for found in own if isinstance(found, ast.Name)), key=lambda name: name.lineno)
    born = dict.fromkeys(known, node.lineno)
    for name in names:
        if isinstance(name.ctx, ast.Store):
            born.setdefault(name.id, name.lineno)
    for name in names:
        if isinstance(name.ctx, ast.Load) and name.id in born and id(name) not in called:
            for other, line in born.items():
                if other != name.id and line < name.lineno:
                    yield Edit(*source.span(name), other)


def wrong_attribute(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`self.a` -> `self.b`, where the function itself speaks of `self.b` too."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    own = list(_own(node))
    called = {id(found.func) for found in own if isinstance(found, ast.Call)}
    found = [a for a in own if isinstance(a, ast.Attribute) and isinstance(a.ctx, ast.Load) and id(a) not in called]
    attributes = [a for a in found if isinstance(a.value, ast.Name) and a.value.id in BOUND]
    for attribute in attributes:
        end = source.span(attribute)[1]
        for other in sorted({a.attr for a in attributes} - {attribute.attr}):
            yield Edit(end - len(attribute.attr), end, other)


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """What is in the body of a function; functions in it are of it, too."""
    for statement in function.body:
        yield from walk(statement)
