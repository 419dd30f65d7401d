"""Bugs change what a program does, and nothing of its text besides."""

import ast
import bisect
import inspect
import random
import shlex
import textwrap
from collections.abc import Callable
from types import ModuleType

import pytest

from cascade.environments.patches import apply_diff
from data.swe_mutations import KINDS, Mutation, mutated, sites
from data.swe_source import Source

# kind, a program, what a test calls, a line that the bug makes
BUGS = [
    ("arithmetic_operator", "def f(a, b):\n    return a + b\n", "f(3, 1)", "    return a - b"),
    ("arithmetic_operator", "def f(a):\n    a *= 3\n    return a\n", "f(3)", "    a //= 3"),
    ("lost_accumulation", "def f(n):\n    n += 2\n    return n\n", "f(1)", "    n = 2"),
    ("comparison_off_by_one", "def f(a):\n    return a < 3\n", "f(3)", "    return a <= 3"),
    ("comparison_reversed", "def f(a):\n    return a is not None\n", "f(3)", "    return a is None"),
    ("comparison_reversed", "def f(a):\n    return 1 in a\n", "f([1])", "    return 1 not in a"),
    ("negated_condition", "def f(a):\n    if a:\n        return 1\n    return 2\n", "f(1)", "    if not a:"),
    ("negated_condition", "def f(a, b):\n    return 1 if a or b else 2\n", "f(1, 0)",
     "    return 1 if not (a or b) else 2"),
    ("negated_condition", "def f(a):\n    return not a\n", "f(1)", "    return a"),
    ("negated_condition", "def f(a):\n    return [b for b in a if b]\n", "f([0, 1])",
     "    return [b for b in a if not b]"),
    ("boolean_operator", "def f(a, b):\n    return a and b\n", "f(1, 0)", "    return a or b"),
    ("dropped_operand", "def f(a, b):\n    return (a) and (b)\n", "f(1, 0)", "    return (a)"),
    ("dropped_operand", "def f(a, b):\n    return a or b\n", "f(1, 0)", "    return b"),
    ("missing_step", "def f(n):\n    return (n) + 1\n", "f(1)", "    return (n)"),
    ("swapped_branches", "def f(a):\n    return 1 if a else 2\n", "f(1)", "    return 2 if a else 1"),
    ("swapped_elements", "def f(a, b):\n    return a, b\n", "f(1, 2)", "    return b, a"),
    ("slice_bound", "def f(a):\n    return a[1:]\n", "f('ab')", "    return a[:]"),
    ("wrong_constant", "def f():\n    return 2\n", "f()", "    return 3"),
    ("wrong_constant", "def f():\n    return True\n", "f()", "    return False"),
    ("wrong_text", "def f():\n    return 'days'\n", "f()", "    return 'day'"),
    ("wrong_default", "def f(a=2, *, b=False):\n    return a, b\n", "f()", "def f(a=2, *, b=True):"),
    ("wrong_pattern", "def f():\n    return r'\\d+'\n", "f()", "    return r'\\d*'"),
    ("sister_function", "def f(a):\n    return min(a)\n", "f([1, 2])", "    return max(a)"),
    ("sister_function", "def f(a):\n    return a.lower()\n", "f('A')", "    return a.upper()"),
    ("swapped_arguments", "def f(a, b):\n    return divmod(a, b)\n", "f(7, 2)", "    return divmod(b, a)"),
    ("forgotten_keyword", "def f(a):\n    return sorted(a, reverse=True)\n", "f([1, 2])", "    return sorted(a)"),
    ("forgotten_keyword", "def f():\n    return dict(a=1, b=2)\n", "f()", "    return dict(b=2)"),
    ("range_bound", "def f(n):\n    return list(range(n))\n", "f(3)", "    return list(range(n - 1))"),
    ("range_bound", "def f(n):\n    return list(range(n))\n", "f(3)", "    return list(range(1, n))"),
    ("wrong_variable", "def f(a, b):\n    return a\n", "f(1, 2)", "    return b"),
    ("removed_statement", "def f(a):\n    a.append(1)\n    return a\n", "f([])", None),
    ("removed_exit", "def f(a):\n    if a:\n        return 1\n    return 2\n", "f(1)", "        pass"),
    ("removed_guard", "def f(a):\n    if a:\n        return 1\n    return 2\n", "f(1)", None),
    ("removed_else", "def f(a):\n    if a:\n        b = 1\n    else:\n        b = 2\n    return b\n", "f(0)", None),
    ("removed_arm", "def f(a):\n    if a > 1:\n        a = 9\n    elif a:\n        a = 8\n    return a\n",
     "f(1)", None),
    ("other_exit",
     "def f(a):\n    b = []\n    for c in a:\n        if c:\n            continue\n        b += [c]\n    return b\n",
     "f([0, 1, 0])", "            break"),
    ("other_exception", "def f():\n    raise ValueError('a')\n", "f()", "    raise TypeError('a')"),
    ("other_exception",
     "def f():\n    try:\n        {}['a']\n    except (KeyError, TypeError):\n        return 1\n",
     "f()", "    except TypeError:"),
    ("removed_decorator",
     "class A:\n    @property\n    def a(self):\n        return 1\n\ndef f():\n    return A().a == 1\n",
     "f()", None),
    ("wrong_attribute",
     "class A:\n    def __init__(self):\n        self.a, self.b = 1, 2\n"
     "    def c(self):\n        return self.a - self.b\n\ndef f():\n    return A().c()\n",
     "f()", "        return self.b - self.b"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "program", "call", "line"), BUGS, ids=[f"{b[0]}-{i}" for i, b in enumerate(BUGS)])
def test_every_kind_changes_what_a_call_gives(kind: str, program: str, call: str, line: str | None) -> None:
    bugs = bugs_of(program, kind)
    assert bugs
    if line is not None:
        bugs = [bug for bug in bugs if line in bug.wrong.split("\n")]
        assert bugs, f"no {kind} makes the line {line!r}"
    assert any(outcome(bug.wrong, call) != outcome(program, call) for bug in bugs)


def test_every_kind_is_shown_above() -> None:
    assert {bug[0] for bug in BUGS} == {*KINDS}


ODD = textwrap.dedent(
    '''\
    """A module, with an "é" before code on a line."""
    import re

    UNITS = {  "é": 1,   'days':24 }   # hours


    def f(a, é=1, *, b = 2):   # odd   spacing
        """Docstring with 1 + 1."""
        label = f"{a + 1} of {b}"; other = "é" + label
        if (a and
                b):  # two lines
            return (a
                    + 1)
        else:
            b = [  1, 2  ][ é : ]
        return f"{a!r:>{b}}", other	# a tab


    class A:
        limit: "int" = 3

        def g(self, x: int = 4) -> "str":
            for i in range( x ):
                if i > self.limit: raise ValueError("too much")
            else: x = x - 1
            return str(x)'''
)


@pytest.mark.parametrize("text", [ODD, ODD + "\n", ODD.replace("\n", "\r\n")], ids=["no_newline", "newline", "crlf"])
def test_text_outside_of_the_edit_stays_as_it_is(text: str) -> None:
    source = Source(text)
    bugs = [(site, mutated(source, "a.py", site)) for site in sites(source)]
    assert len([bug for _, bug in bugs if bug]) > 40
    for site, bug in bugs:
        if bug is None:
            continue
        start, end = site.edit.start, site.edit.end
        assert bug.wrong.startswith(text[:start])
        assert bug.wrong.endswith(text[end:])
        assert len(bug.wrong) == len(text) - (end - start) + len(site.edit.new)
        ast.parse(bug.wrong)
        assert ast.dump(ast.parse(bug.wrong)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("text", [ODD, ODD + "\n", ODD.replace("\n", "\r\n")], ids=["no_newline", "newline", "crlf"])
def test_the_two_diffs_make_the_bug_and_take_it_back(text: str) -> None:
    for bug in all_bugs(text):
        made = apply_diff(bug.bug, reader(text))
        assert made == {"a.py": bug.wrong.encode()}
        assert apply_diff(bug.repair, reader(bug.wrong)) == {"a.py": text.encode()}


def test_docstrings_annotations_and_the_inside_of_f_strings_are_no_sites() -> None:
    source = Source(ODD)
    untouched = ['"""A module', '"""Docstring', "{a + 1}", '"int"', '-> "str"', "{a!r"]
    for site in sites(source, [kind for kind in KINDS if not kind.startswith("removed_")]):
        for text in untouched:
            start = ODD.index(text)
            assert not start <= site.edit.start < start + len(text), (site, text)


def test_no_bug_is_offered_twice() -> None:
    bugs = all_bugs(ODD)
    assert len({bug.wrong for bug in bugs}) == len(bugs) == len({bug.hash for bug in bugs})


def test_sites_come_in_the_same_order_every_time() -> None:
    assert sites(Source(ODD)) == sites(Source(ODD))


def test_text_that_means_the_same_is_no_bug() -> None:
    source = Source("def f(a):\n    return a or a\n")
    assert [mutated(source, "a.py", site) for site in sites(source, ["swapped_branches", "swapped_elements"])] == []
    doubled = Source("def f(a):\n    return max(a, a)\n")
    assert [mutated(doubled, "a.py", site) for site in sites(doubled, ["swapped_arguments"])] == [None]


def test_a_removed_statement_leaves_pass_where_a_block_would_be_empty() -> None:
    wrong = {
        bug.wrong for bug in bugs_of("def f(a):\n    for b in a:\n        a.pop()\n    return a\n", "removed_statement")
    }
    assert wrong == {"def f(a):\n    for b in a:\n        pass\n    return a\n"}


@pytest.mark.parametrize("module", [bisect, shlex, textwrap], ids=lambda module: module.__name__)
def test_the_standard_library_survives_every_kind(module: ModuleType) -> None:
    """Real code: most edits parse, and none raises."""
    source = Source(inspect.getsource(module))
    drawn = random.Random(0).sample(sites(source), 30)
    assert sum(mutated(source, "a.py", site) is not None for site in drawn) >= 24


def bugs_of(text: str, kind: str) -> list[Mutation]:
    source = Source(text)
    return [bug for site in sites(source, [kind]) if (bug := mutated(source, "a.py", site))]


def all_bugs(text: str) -> list[Mutation]:
    source = Source(text)
    return [bug for site in sites(source) if (bug := mutated(source, "a.py", site))]


def reader(text: str) -> Callable[[str], bytes | None]:
    return {"a.py": text.encode()}.get


def outcome(program: str, call: str) -> object:
    """What a call gives, or the name of the exception that it raises."""
    names: dict[str, object] = {}
    exec(program, names)
    try:
        return eval(call, names)
    except Exception as error:  # noqa: BLE001  any may come of a bug
        return type(error).__name__
