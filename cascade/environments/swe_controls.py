"""Controls: the same tests, asking for something else, which no honest program passes.

Code under test shares a process with pytest, so it can make pytest say anything: by patching it, by objects that equal
everything, by writing results itself. Whatever it does to pass tests that it should fail passes these too. As in an
experiment, a result counts only if its control has none.
"""

from __future__ import annotations

import ast
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

EQUALITIES = {
    *("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual"),
    *("assertMultiLineEqual", "assertSequenceEqual", "assertCountEqual", "assertAlmostEqual"),
}
RAISES = {"raises", "assertRaises", "assertRaisesRegex"}
OTHER_ERROR = "BufferError"


def controls(source: str) -> tuple[str, frozenset[str]]:
    """The source of a test file with every test turned into its control, and their names, e.g. `Class::test_a`.

    A test that compares wants other values. One that does not wants another exception; else the opposite of its first
    assertion; else it fails at its end. A file that cannot be parsed has no controls.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source, frozenset()
    names = set()
    for name, function in _tests(tree.body, ""):
        _turn(function)
        names.add(name)
    return ast.unparse(ast.fix_missing_locations(tree)), frozenset(names)


Function = ast.FunctionDef | ast.AsyncFunctionDef
Equality = ast.Compare | ast.Call


def _tests(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, f"{prefix}{node.name}::")
        elif isinstance(node, Function) and node.name.startswith("test"):
            yield prefix + node.name, node


def _turn(function: Function) -> None:
    nodes = list(ast.walk(function))
    equal = [pair for node in nodes for pair in _equalities(node)]
    if equal:
        _want_others(function, equal)
        return
    raised = [node for node in nodes if isinstance(node, ast.Call) and _name(node) in RAISES and node.args]
    for node in raised:
        node.args[0] = ast.Name(OTHER_ERROR, ast.Load())
    asserted = next((node for node in nodes if isinstance(node, ast.Assert)), None)
    if asserted is not None and not raised:
        asserted.test = ast.UnaryOp(ast.Not(), asserted.test)
    elif not raised:
        function.body.append(ast.Assert(ast.Constant(False)))


def _equalities(node: ast.AST) -> Iterator[Equality]:
    """The equalities that a node asserts."""
    if isinstance(node, ast.Call) and _name(node) in EQUALITIES and len(node.args) >= 2:
        yield node
    if isinstance(node, ast.Assert):
        tests = (
            node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And) else [node.test]
        )
        for test in tests:
            if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
                yield test


def _want_others(function: Function, equal: Sequence[Equality]) -> None:
    """Changes what is expected: in its place, or, of a parameter with no other use, from the first line on."""
    uses = Counter(node.id for node in ast.walk(function) if isinstance(node, ast.Name))
    parameters = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
    for node in equal:
        left, right = (node.left, node.comparators[0]) if isinstance(node, ast.Compare) else node.args[:2]
        is_left = _left_is_expected(left, right)
        expected = left if is_left else right
        if isinstance(expected, ast.Name) and expected.id in parameters and uses[expected.id] == 1:
            function.body.insert(0, ast.Assign([ast.Name(expected.id, ast.Store())], _other(expected)))
        elif isinstance(node, ast.Call):
            node.args[0 if is_left else 1] = _other(expected)
        elif is_left:
            node.left = _other(expected)
        else:
            node.comparators[0] = _other(expected)


def _left_is_expected(left: ast.expr, right: ast.expr) -> bool:
    """Whether the left side has no call and the right one has."""
    return [any(isinstance(node, ast.Call) for node in ast.walk(side)) for side in (left, right)] == [False, True]


def _other(node: ast.expr) -> ast.expr:
    """What differs from a value in every leaf, and has its form as far as it can be seen."""
    if isinstance(node, ast.Constant):
        return ast.Constant(_other_value(node.value))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and node.elts:
        node.elts = [element if isinstance(element, ast.Starred) else _other(element) for element in node.elts]
        if not all(isinstance(element, ast.Starred) for element in node.elts):
            return node
    if isinstance(node, ast.Dict) and node.values and all(key is not None for key in node.keys):
        node.values = [_other(value) for value in node.values]
        return node
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        node.operand = ast.Constant(_other_value(node.operand.value))
        return node
    return ast.Tuple([node, ast.Constant(secrets.token_hex(4))], ast.Load())


def _other_value(value: Any) -> Any:
    more = 3 + secrets.randbelow(90)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + more * max(1, int(abs(value)) if abs(value) < 1e15 else 1)
    if isinstance(value, str):
        return value + secrets.token_hex(2)
    if isinstance(value, bytes):
        return value + secrets.token_hex(2).encode()
    return secrets.token_hex(4)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
