"""Localisation: which files of a repository an issue is about, by the oracle or by BM25 over functions."""

from __future__ import annotations

import ast
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cascade.environments.patches import touched
from cascade.environments.swe_formats import is_test
from cascade.environments.swe_repository import Prepared, paths_below
from cascade.environments.swe_rows import SweTask

K1, B = 1.5, 0.75  # as in Lucene and rank-bm25
MAX_BYTES = 400_000  # larger files are data, or made by programs
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A function, a class without its methods, or what is between them; lines from `start` to before `stop`, from 0."""

    path: str
    start: int
    stop: int
    words: Counter[str]


def gold_files(task: SweTask) -> tuple[str, ...]:
    """The files that the oracle changes. Those that it makes are not there to be shown."""
    return tuple(path for path in touched(task.patch) if not is_test(path))


def retrieved_files(task: SweTask, prepared: Prepared, count: int = 5) -> tuple[str, ...]:
    """The source files whose best function answers to the words of an issue, best first; those it names come before."""
    scores: dict[str, float] = {}
    index = indexed(prepared.folder)
    for piece, score in index.scores(words_of(task.problem_statement)):
        scores[piece.path] = max(scores.get(piece.path, 0.0), score)
    named = {path for path in scores if path in task.problem_statement}
    ranked = sorted(scores, key=lambda path: (path not in named, -scores[path], path))
    gone = {path for path, text in prepared.changes.items() if text is None}
    return tuple(path for path in ranked if path not in gone)[:count]


def words_of(text: str) -> list[str]:
    """Words of code and prose alike: `parseDate_v2` -> parse, date, v, 2."""
    return [word.lower() for word in _WORD.findall(text) if len(word) > 1 or word.isdigit()]


class Index:
    """BM25 over the pieces of a repository's source files."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self._lengths = [sum(piece.words.values()) for piece in pieces]
        self._mean = sum(self._lengths) / max(len(pieces), 1) or 1.0
        found = Counter(word for piece in pieces for word in piece.words)
        self._idf = {word: math.log(1 + (len(pieces) - n + 0.5) / (n + 0.5)) for word, n in found.items()}

    def scores(self, words: list[str]) -> Iterator[tuple[Piece, float]]:
        """Every piece with its score."""
        asked = {word: self._idf[word] for word in words if word in self._idf}
        for piece, length in zip(self.pieces, self._lengths, strict=True):
            norm = K1 * (1 - B + B * length / self._mean)
            counts = ((idf, piece.words[word]) for word, idf in asked.items())
            yield piece, sum(idf * n * (K1 + 1) / (n + norm) for idf, n in counts if n)


@functools.lru_cache(maxsize=64)
def indexed(folder: Path) -> Index:
    """The index of an unchanged folder: of its Python files that are no tests."""
    pieces = []
    for path in paths_below(folder):
        if path.endswith(".py") and not is_test(path) and (folder / path).stat().st_size <= MAX_BYTES:
            text = (folder / path).read_text(encoding="utf-8", errors="replace")
            pieces += pieces_of(path, text)
    return Index(pieces)


def pieces_of(path: str, text: str) -> list[Piece]:
    """A file in pieces that together are all of it."""
    lines = text.split("\n")
    edges = sorted({0, len(lines), *_starts(text)})
    named = Counter(words_of(path.removesuffix(".py")))
    found = [(a, b, Counter(words_of("\n".join(lines[a:b])))) for a, b in pairwise(edges)]
    return [Piece(path, start, stop, words + named) for start, stop, words in found]


def _starts(text: str) -> Iterator[int]:
    """Lines at which functions and classes begin and end, from 0, methods too."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    tops = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    methods = [node for top in tops if isinstance(top, ast.ClassDef) for node in top.body]
    for node in [*tops, *methods]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            yield node.end_lineno or node.lineno
