"""Which bugs of a package are tried, and in which order: seeded, and spread over functions and kinds."""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cascade.environments.swe_repository import Prepared
from cascade.environments.swe_rows import is_test
from data.swe_mutations import Mutation, Site, mutated, sites
from data.swe_source import Source

NO_SOURCE = ("conftest.py", "setup.py", "noxfile.py")


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    source: Source
    site: Site


def candidates(prepared: Prepared, lines: Mapping[str, frozenset[int]], seed: str) -> Iterator[Mutation]:
    """Every bug on a line that the tests run, each once.

    Rounds over the functions in a new order each: every function gives one bug a round, of the kind that was drawn
    least so far, and of a place in the text that had none yet as long as there is one.
    """
    rng = random.Random(seed)
    functions: dict[tuple[str, str], list[_Place]] = {}
    for place in _places(prepared, lines):
        functions.setdefault((place.path, place.site.unit), []).append(place)
    for places in functions.values():
        rng.shuffle(places)
    drawn: Counter[str] = Counter()
    used: set[tuple[str, int]] = set()
    while functions:
        for name in rng.sample(sorted(functions), len(functions)):
            places = functions[name]
            place = min(places, key=lambda p: ((p.path, p.site.edit.start) in used, drawn[p.site.kind]))
            places.remove(place)
            if not places:
                del functions[name]
            drawn[place.site.kind] += 1
            used.add((place.path, place.site.edit.start))
            if mutation := mutated(place.source, place.path, place.site):
                yield mutation


def _places(prepared: Prepared, lines: Mapping[str, frozenset[int]]) -> Iterator[_Place]:
    for path in sorted(lines):
        if path.endswith(".py") and not is_test(path) and path.rpartition("/")[2] not in NO_SOURCE:
            source = Source((prepared.read(path) or b"").decode())
            starts = _statement_starts(source)
            for site in sites(source):
                first, last = source.line(site.edit.start), source.line(max(site.edit.start, site.edit.end - 1))
                touched = {*range(first, last + 1), starts.get(first, first)}
                if touched & lines[path]:
                    yield _Place(path, source, site)


def _statement_starts(source: Source) -> dict[int, int]:
    """Line -> the line on which its statement begins, for statements that hold no others."""
    found = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = node.lineno
    return found
