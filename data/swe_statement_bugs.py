"""Bugs in statements: removed ones, removed branches, other exceptions. One kind is one function."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from data.swe_source import Edit, Source, is_docstring

GUARD = 6  # lines; a longer `if` is not removed: the issue would not say enough to write it again
EXCEPTIONS = {
    "ValueError": "TypeError",
    "TypeError": "ValueError",
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "AttributeError": "KeyError",
    "StopIteration": "IndexError",
    "RuntimeError": "ValueError",
    "NotImplementedError": "RuntimeError",
    "OverflowError": "ZeroDivisionError",
}


def removed_statement(source: Source, node: ast.AST) -> Iterator[Edit]:
    """An assignment, a call or a deletion is gone."""
    for block, statement in _statements(node):
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Delete):
            yield removal(source, statement, block)


def removed_exit(source: Source, node: ast.AST) -> Iterator[Edit]:
    """A `raise`, a `break`, a `continue` or an early `return` is gone."""
    for block, statement in _statements(node):
        last = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and statement is block[-1]
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue) and not last:
            yield removal(source, statement, block)


def removed_guard(source: Source, node: ast.AST) -> Iterator[Edit]:
    """A short `if` without `else` is gone with what it holds."""
    for block, statement in _statements(node):
        if (
            isinstance(statement, ast.If)
            and not statement.orelse
            and _last_line([statement]) < statement.lineno + GUARD
        ):
            yield removal(source, statement, block)


def removed_else(source: Source, node: ast.AST) -> Iterator[Edit]:
    """The `else` of an `if`, a loop or a `try` is gone."""
    if isinstance(node, ast.If | ast.For | ast.While | ast.Try) and node.orelse:
        before = node.handlers[-1] if isinstance(node, ast.Try) and node.handlers else node.body[-1]
        words = source.words_between(source.span(before)[1], source.span(node.orelse[0])[0])
        if words and words[0].text == "else":
            yield Edit(*source.whole_lines(source.line(words[0].start), _last_line(node.orelse)), "")


def removed_arm(source: Source, node: ast.AST) -> Iterator[Edit]:
    """An `elif` is gone with what it holds, or one `except` of several."""
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(arm := node.orelse[0], ast.If):
        if source.segment(arm).startswith("elif"):
            yield Edit(*source.whole_lines(arm.lineno, _last_line(arm.body)), "")
    elif isinstance(node, ast.Try) and len(node.handlers) > 1:
        for handler in node.handlers:
            yield Edit(*source.whole_lines(handler.lineno, _last_line(handler.body)), "")


def removed_decorator(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`@wraps(f)` is gone."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        for decorator in node.decorator_list:
            yield Edit(*source.whole_lines(decorator.lineno, decorator.end_lineno or decorator.lineno), "")


def other_exit(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`continue` -> `break`, and back."""
    if isinstance(node, ast.Continue | ast.Break):
        yield Edit(*source.span(node), "break" if isinstance(node, ast.Continue) else "continue")


def other_exception(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`raise ValueError` -> `raise TypeError`, `except (A, B)` -> `except A`."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(raised, ast.Name) and raised.id[:1].isupper():
            yield Edit(*source.span(raised), EXCEPTIONS.get(raised.id, "RuntimeError"))
    elif isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
        yield Edit(*source.span(node.type), EXCEPTIONS.get(node.type.id, "RuntimeError"))
    elif isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Tuple):
        yield from (Edit(*source.span(node.type), source.segment(kept)) for kept in node.type.elts)


def removal(source: Source, statement: ast.stmt, block: list[ast.stmt]) -> Edit:
    """A statement gone with its lines; `pass` where its block would be empty, or something else stands on them."""
    start, end = source.span(statement)
    from_line, to_line = source.whole_lines(source.line(start), source.line(end - 1))
    beside = source.words_between(from_line, start) + source.words_between(end, to_line)
    alone = all(other is statement or is_docstring(other) for other in block)
    return Edit(start, end, "pass") if alone or beside else Edit(from_line, to_line, "")


def _statements(node: ast.AST) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """The statements that are a direct part of a node, each with its block; docstrings are none."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if not isinstance(block, list):
            continue
        for statement in block:
            if not is_docstring(statement):
                yield block, statement


def _last_line(block: list[ast.stmt]) -> int:
    return block[-1].end_lineno or block[-1].lineno
