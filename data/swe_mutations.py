"""Every seeded bug of a file: one small edit of its text that changes what it means."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cascade.environments.patches import make_diff
from data import swe_expression_bugs as expressions
from data import swe_name_bugs as names
from data import swe_statement_bugs as statements
from data import swe_value_bugs as values
from data.swe_source import Edit, Source, units, walk

Kind = Callable[[Source, ast.AST], Iterator[Edit]]
KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        expressions.arithmetic_operator,
        expressions.lost_accumulation,
        expressions.comparison_off_by_one,
        expressions.comparison_reversed,
        expressions.negated_condition,
        expressions.boolean_operator,
        expressions.dropped_operand,
        expressions.missing_step,
        expressions.swapped_branches,
        expressions.swapped_elements,
        expressions.slice_bound,
        values.wrong_constant,
        values.wrong_text,
        values.wrong_default,
        values.wrong_pattern,
        names.sister_function,
        names.swapped_arguments,
        names.forgotten_keyword,
        names.range_bound,
        names.wrong_variable,
        names.wrong_attribute,
        statements.removed_statement,
        statements.removed_exit,
        statements.removed_guard,
        statements.removed_else,
        statements.removed_arm,
        statements.removed_decorator,
        statements.other_exit,
        statements.other_exception,
    )
}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a bug can be made, and how: the kind, the function, the edit of the file's text."""

    kind: str
    unit: str
    edit: Edit


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug as two diffs, of which the second takes back what the first does."""

    kind: str
    path: str
    unit: str
    wrong: str  # the whole file with the bug in it
    bug: str
    repair: str

    @property
    def hash(self) -> str:
        """Eight digits by which the bug is known over runs."""
        return hashlib.sha256(self.bug.encode()).hexdigest()[:8]


def sites(source: Source, kinds: Sequence[str] = tuple(KINDS)) -> list[Site]:
    """Every bug that a file can have, by unit and kind, equal edits once. Not every one of them parses."""
    found: dict[Edit, Site] = {}
    for unit in units(source):
        for kind in kinds:
            for node in walk(unit.node):
                for edit in KINDS[kind](source, node):
                    found.setdefault(edit, Site(kind, unit.name, edit))
    return list(found.values())


def mutated(source: Source, path: str, site: Site) -> Mutation | None:
    """The bug of a site; None where the edited text is not Python, or means the same."""
    wrong = source.edited(site.edit)
    try:
        tree = ast.parse(wrong)
        compile(tree, path, "exec", dont_inherit=True)  # e.g. `return` outside of a function
    except (SyntaxError, ValueError):
        return None
    if ast.dump(tree) == source.dump:
        return None
    right, bad = {path: source.text.encode()}, {path: wrong.encode()}
    bug, repair = make_diff(right, bad), make_diff(bad, right)
    return Mutation(site.kind, path, site.unit, wrong, bug, repair)
