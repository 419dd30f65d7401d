"""A Python file as text and as syntax tree at once: its functions, and where their parts stand in the text."""

from __future__ import annotations

import ast
import bisect
import functools
import io
import token
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

SKIPPED_TOKENS = {token.NEWLINE, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER, token.NL, token.COMMENT}


@dataclass(frozen=True, slots=True)
class Word:
    """A token and its place in the text, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters `start` to `end` of a file, replaced."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A function, a method or one assignment outside of functions: what splits keep whole, e.g. `Cache.pop`."""

    name: str
    node: ast.stmt


class Source:
    """The text and the tree of a file. Raises `SyntaxError` or `ValueError` for text that is not Python."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = io.StringIO(text).readlines()  # as ast and tokenize see them; str.splitlines has more line ends
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    @functools.cached_property
    def words(self) -> list[Word]:
        """The tokens that are not layout or comments, in order."""
        return [
            Word(found.string, self._starts[found.start[0] - 1] + found.start[1], self._at_token_end(found))
            for found in tokenize.generate_tokens(io.StringIO(self.text).readline)
            if found.type not in SKIPPED_TOKENS
        ]

    @functools.cached_property
    def dump(self) -> str:
        """The tree as text, without places: equal for programs that mean the same."""
        return ast.dump(self.tree)

    def span(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg | ast.ExceptHandler) -> tuple[int, int]:
        """Where a node stands, in characters; parentheses around it are not of it."""
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return self._offset(node.lineno, node.col_offset), self._offset(end_line, end_column)

    def segment(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg | ast.ExceptHandler) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def words_between(self, start: int, end: int) -> list[Word]:
        """The tokens that lie wholly between two offsets."""
        first = bisect.bisect_left(self.words, start, key=lambda word: word.start)
        found = []
        for word in self.words[first:]:
            if word.end > end:
                break
            found.append(word)
        return found

    def line(self, offset: int) -> int:
        """The number of the line, from 1, that a character is on."""
        return bisect.bisect_right(self._starts, offset)

    def whole_lines(self, first: int, last: int) -> tuple[int, int]:
        """From the start of one line to the end of another, line break included, both numbered from 1."""
        return self._starts[first - 1], self._starts[last]

    def edited(self, edit: Edit) -> str:
        return self.text[: edit.start] + edit.new + self.text[edit.end :]

    def _offset(self, line: int, column: int) -> int:
        """Characters from the start; `ast` counts columns in bytes of UTF-8."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _at_token_end(self, found: tokenize.TokenInfo) -> int:
        return self._starts[found.end[0] - 1] + found.end[1]


def units(source: Source) -> Iterator[Unit]:
    """Functions, methods and assignments of a file, in order; dunder names such as `__all__` are left out."""
    yield from _units(source.tree.body, "")


def _units(body: list[ast.stmt], prefix: str) -> Iterator[Unit]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Unit(prefix + node.name, node)
        elif isinstance(node, ast.ClassDef):
            yield from _units(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and not target.id.startswith("__"):
                yield Unit(prefix + target.id, node)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is below it, parents first; see `children`."""
    yield node
    for child in children(node):
        yield from walk(child)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """The direct parts of a node, without annotations, docstrings and the inside of f-strings.

    Before Python 3.12 the tree does not say where the parts of an f-string stand.
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not is_docstring(child):
                yield child


def is_docstring(node: ast.AST) -> bool:
    """A statement that is a string and nothing else, and so has no effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
