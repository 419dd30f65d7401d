"""What a failed test did: its statements up to the one that failed, what it called, what it wanted and what came."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from cascade.environments.swe_room import REPOSITORY, TESTING
from data.swe_source import is_docstring
from data.swe_suite import Failure

MAX_LINES = 24  # of code that is shown
PLUMBING = re.compile(r"assert\w*|raises|fail\w*|warns|approx|fixture|parametrize|patch|Mock")
OF_THE_ROOM = re.compile(rf"{REPOSITORY}\b|{TESTING}\b|PYTEST_|PYTHONPATH")
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
NAMED = re.compile(r"<(?:function |class ')([\w.]+)")  # the repr of what a test is given to call
OF_TEXTS_AND_LISTS = {*dir(str), *dir(list), *dir(builtins)}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Witness:
    """A failed test as an issue tells it; texts are empty where nothing is known."""

    code: str  # what it did
    last: str  # the statement of it that failed
    called: str  # e.g. `inflection.pluralize`
    got: str  # the value that came
    wanted: str


def witness(source: str, failure: Failure, package: str) -> Witness:
    """A failure as an issue tells it, from the source of its test file, which imports from `package`."""
    if failure.place is None:
        return Witness("", "", "", "", "")
    line, tree = failure.place[1], _parsed(source)
    function = next((f for f in ast.walk(tree) if isinstance(f, Function) and _holds(f, line)), None)
    statements = [s for s in function.body if s.lineno <= line and not is_docstring(s)] if function else []
    if not statements:
        return Witness("", "", "", "", "")
    lines, known = source.splitlines(), _imported(tree, package)
    failed = _innermost(statements[-1], line)
    last = textwrap.dedent("\n".join(lines[failed.lineno - 1 : failed.end_lineno]))
    got, wanted = _values(failed, failure.message, known)
    called = _called(failed, known)
    if called in failure.parameters:
        named = NAMED.match(failure.parameters[called])
        called = named[1] if named else ""
    return Witness(_shown(statements, lines, failure.parameters), last, called, got, wanted)


def readable(text: str, lines: int = 12, characters: int = 900) -> str:
    """A message without addresses and without what only the room is like, cut to a length."""
    plain = ADDRESS.sub("", text).replace(f"{REPOSITORY}/", "").rstrip().splitlines()
    whole = ["..." if OF_THE_ROOM.search(line) else line.rstrip() for line in plain]
    cut = "\n".join(whole[:lines])[:characters]
    return cut if cut == "\n".join(whole) else cut.rstrip() + ("\n..." if lines > 1 else " ...")


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _imported(tree: ast.Module, package: str) -> frozenset[str]:
    """The names by which a test file knows a package and what is in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] == package]
            found |= {(alias.asname or alias.name).split(".")[0] for alias in names}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == package):
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


def _shown(statements: list[ast.stmt], lines: list[str], parameters: Mapping[str, str]) -> str:
    """The statements, the earliest left out where they are many, behind the values of the test's parameters."""
    end = statements[-1].end_lineno or statements[-1].lineno
    first = min(
        (start for s in statements if end - (start := _first_line(s)) < MAX_LINES), default=_first_line(statements[-1])
    )
    code = textwrap.dedent("\n".join(lines[first - 1 : end]))
    left_out = ["# ..."] if first > _first_line(statements[0]) else []
    return "\n".join([*_assignments(parameters, code), *left_out, code])


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _first_line(statement: ast.stmt) -> int:
    """Decorators stand before the line of their function."""
    return min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])


def _innermost(statement: ast.stmt, line: int) -> ast.stmt:
    """The statement at a line; of `with raises(...)` the whole."""
    while not isinstance(statement, ast.With):
        below = [s for s in ast.iter_child_nodes(statement) if isinstance(s, ast.stmt) and _holds(s, line)]
        if not below:
            break
        statement = below[0]
    return statement


def _assignments(parameters: Mapping[str, str], code: str) -> list[str]:
    """`name = value` of each parameter that the code speaks of."""
    names = [name for name in parameters if re.search(rf"\b{re.escape(name)}\b", code)]
    return [f"{name} = {readable(parameters[name], 1, 300)}" for name in names]


def _called(statement: ast.stmt, known: frozenset[str]) -> str:
    """The function of the package that a statement calls; `""` where none is seen."""
    names = [name for name in map(_dotted, _calls(statement)) if name]
    of_package = [name for name in names if name.split(".")[0] in known]
    others = [name for name in names if name.rpartition(".")[2] not in OF_TEXTS_AND_LISTS]
    return next(iter([*of_package, *others]), "")


def _dotted(call: ast.Call) -> str:
    """`a.b` of `a.b(...)`, if it is not of the tests' own tools."""
    name = ast.unparse(call.func)
    bare = name.rpartition(".")[2]
    if not re.fullmatch(r"[\w.]+", name) or PLUMBING.fullmatch(bare) or bare.startswith("_"):
        return ""
    return name.removeprefix("self.")


def _calls(node: ast.AST) -> list[ast.Call]:
    return [found for found in ast.walk(node) if isinstance(found, ast.Call)]


def _values(statement: ast.stmt, message: str, known: frozenset[str]) -> tuple[str, str]:
    """What came and what was wanted, of an assertion that two things are equal; empty where it does not show."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare) and len(statement.test.ops) == 1:
        sides, operator = [statement.test.left, statement.test.comparators[0]], ast.Eq
    elif isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "assertEqual":
        sides, operator = call.args[:2], ast.NotEq
    else:
        return "", ""
    said = message.splitlines()[0].removeprefix("assert ") if message else ""
    try:
        found = ast.parse(said, mode="eval").body
    except (SyntaxError, ValueError):
        return "", ""
    if not isinstance(found, ast.Compare) or len(found.ops) != 1 or not isinstance(found.ops[0], operator):
        return "", ""
    left = ast.get_source_segment(said, found.left) or ""
    right = ast.get_source_segment(said, found.comparators[0]) or ""
    for computed in (
        [any(_dotted(c).split(".")[0] in known for c in _calls(side)) for side in sides],
        [bool(_calls(side)) for side in sides],
    ):
        if computed[0] != computed[1]:
            return (left, right) if computed[0] else (right, left)
    return "", ""
