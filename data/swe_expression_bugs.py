"""Bugs in expressions: operators, comparisons, conditions, constants, slices. One kind is one function.

The kinds are those of SWE-smith's procedural modifiers (https://github.com/SWE-bench/SWE-smith) and a few more.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from data.swe_source import Edit, Source, Word

ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
}
OFF_BY_ONE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
REVERSED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "!=", "!=": "=="}
REVERSED |= {"is": "is not", "is not": "is", "in": "not in", "not in": "in"}


def arithmetic_operator(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a + b` -> `a - b`, `a += b` -> `a -= b`; not where a text is added to or formatted."""
    if isinstance(node, ast.BinOp) and not _is_text(node.left) and not _is_text(node.right):
        right, wrong = ARITHMETIC.get(type(node.op), ("", ""))
        yield from _replaced_word(source, node.left, node.right, right, wrong)
    elif isinstance(node, ast.AugAssign) and not _is_text(node.value):
        right, wrong = ARITHMETIC.get(type(node.op), ("", ""))
        yield from _replaced_word(source, node.target, node.value, right + "=", wrong + "=")


def lost_accumulation(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`total += x` -> `total = x`."""
    if isinstance(node, ast.AugAssign):
        between = source.words_between(source.span(node.target)[1], source.span(node.value)[0])
        yield from (Edit(word.start, word.end, "=") for word in between if word.text.endswith("="))


def comparison_off_by_one(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a < b` -> `a <= b`."""
    yield from _comparisons(source, node, OFF_BY_ONE)


def comparison_reversed(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a < b` -> `a > b`, `a is None` -> `a is not None`, `a in b` -> `a not in b`."""
    yield from _comparisons(source, node, REVERSED)


def negated_condition(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`if a` -> `if not a`, `not a` -> `a`; loops are left as they are, for most would not end."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = source.span(node)
        yield Edit(start, end, source.text[start + len("not") : end].lstrip())
    tests = node.ifs if isinstance(node, ast.comprehension) else []
    for test in [node.test] if isinstance(node, ast.If | ast.IfExp) else tests:
        if not isinstance(test, ast.Compare | ast.UnaryOp):
            start, end = source.span(test)
            text = source.text[start:end]
            plain = isinstance(test, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
            yield Edit(start, end, f"not {text}" if plain else f"not ({text})")


def boolean_operator(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a and b` -> `a or b`; of three operands, between each pair."""
    if isinstance(node, ast.BoolOp):
        right, wrong = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, following in zip(node.values, node.values[1:], strict=False):
            yield from _replaced_word(source, left, following, right, wrong)


def dropped_operand(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a and b` -> `a`, or `b`."""
    if isinstance(node, ast.BoolOp):
        operator = "and" if isinstance(node.op, ast.And) else "or"
        start, end = source.span(node)
        gaps = zip(node.values, node.values[1:], strict=False)
        words = [word for pair in gaps for word in _between(source, *pair) if word.text == operator]
        after_first = source.text[words[0].end : end]
        yield Edit(start, end - len(after_first.lstrip()), "")
        yield Edit(len(source.text[: words[-1].start].rstrip()), end, "")


def missing_step(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`n + 1` -> `n`, `n - 1` -> `n`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and _is_one(node.right):
        yield Edit(source.span(node.left)[1], source.span(node)[1], _closing(source, node.left, node.right))


def swapped_branches(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a if c else b` -> `b if c else a`."""
    if isinstance(node, ast.IfExp):
        yield swapped(source, node.body, node.orelse)


def swapped_elements(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`return a, b` -> `return b, a`; also of tuples that are assigned."""
    value = node.value if isinstance(node, ast.Return | ast.Assign) else None
    if isinstance(value, ast.Tuple) and len(value.elts) > 1:
        yield swapped(source, value.elts[0], value.elts[1])


def slice_bound(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a[1:]` -> `a[:]`, `a[:-1]` -> `a[:]`."""
    if isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper, node.step):
            if bound is not None:
                yield Edit(*source.span(bound), "")


def swapped(source: Source, first: ast.expr, second: ast.expr) -> Edit:
    """Two expressions, the one where the other was."""
    (start, middle), (again, end) = source.span(first), source.span(second)
    return Edit(start, end, source.text[again:end] + source.text[middle:again] + source.text[start:middle])


def _comparisons(source: Source, node: ast.AST, table: dict[str, str]) -> Iterator[Edit]:
    if not isinstance(node, ast.Compare):
        return
    for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
        words = [word for word in _between(source, left, right) if word.text not in "()"]
        operator = " ".join(word.text for word in words)
        if operator in table:
            yield Edit(words[0].start, words[-1].end, table[operator])


def _replaced_word(source: Source, left: ast.expr, right: ast.expr, word: str, new: str) -> Iterator[Edit]:
    yield from (Edit(found.start, found.end, new) for found in _between(source, left, right) if found.text == word)


def _between(source: Source, left: ast.expr, right: ast.expr) -> list[Word]:
    return source.words_between(source.span(left)[1], source.span(right)[0])


def _closing(source: Source, left: ast.expr, right: ast.expr) -> str:
    """The parentheses that close behind `left`."""
    return ")" * sum(word.text == ")" for word in _between(source, left, right))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is not True and node.value == 1
