"""Programs judged in a room of their own by tests in another: what tests can do with them, in every style."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.unit_tests import Judge, TestReport, Tests, assertions, calls, check_function, test_files

LIMITS = Limits(time_s=10, memory_mib=256, disk_mib=16, output_kib=64)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(sandbox("bwrap")) as opened:
        yield opened


def cases(body: str, before: str = "") -> Tests:
    """A `unittest` file whose methods are `body`, with everything of the module `program`."""
    indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    return test_files(
        {"it_test.py": f"import unittest\nfrom program import *\n{before}\nclass It(unittest.TestCase):\n{indented}\n"}
    )


def became(report: TestReport) -> Mapping[str, str]:
    return {test.name.rpartition(".")[2]: test.became for test in report.tests}


def judged(judge: Judge, program: str, tests: Tests) -> TestReport:
    return judge.judge({"program.py": program}, tests, LIMITS)


# ---------------------------------------------------------------------- styles


def test_every_test_of_a_unittest_file_is_reported(judge: Judge) -> None:
    report = judged(
        judge,
        "def f(x): return x * 2\ndef g(x): raise ValueError('no')",
        cases("""
def test_right(self): self.assertEqual(f(2), 4)
def test_wrong(self): self.assertEqual(f(2), 5)
def test_error(self): g(1)
def test_raises(self):
    with self.assertRaisesRegex(ValueError, "^no$"): g(1)
@unittest.skip("later")
def test_skipped(self): pass
@unittest.expectedFailure
def test_expected(self): self.assertEqual(f(2), 5)
def test_parts(self):
    for x in (1, 2, 3):
        with self.subTest(x=x): self.assertEqual(f(x), 4)
"""),
    )
    found = became(report)
    assert found["test_right"] == found["test_raises"] == found["test_expected"] == "passed"
    assert found["test_wrong"] == "failed"
    assert found["test_error"] == "error"
    assert found["test_skipped"] == "skipped"
    assert (report.verdict, report.passed) == ("failed", 3)
    assert report.total == 7  # both parts that fail are told; neither they nor the test as a whole have passed
    assert "4 != 5" in next(test.message for test in report.tests if test.name.endswith("wrong"))


def test_the_verdict_is_passed_when_all_tests_that_ran_have_passed(judge: Judge) -> None:
    report = judged(judge, "def f(x): return x", cases("def test_a(self): self.assertEqual(f(2), 2)"))
    assert (report.verdict, report.passed, report.total, report.reason) == ("passed", 1, 1, "")
    assert report.wall_s > 0
    assert report.peak_memory_mib > 1


def test_set_up_of_class_and_module_runs(judge: Judge) -> None:
    tests = cases(
        """
@classmethod
def setUpClass(cls): cls.box = Box()
def setUp(self): self.box.add(1)
def test_a(self): self.assertEqual(self.box.count, 1)
def test_b(self): self.assertEqual(self.box.count, 2)
"""
    )
    program = "class Box:\n    count = 0\n    def add(self, n): self.count += n\n"
    assert judged(judge, program, tests).verdict == "passed"


def test_nothing_that_ran_is_not_passed(judge: Judge) -> None:
    report = judged(judge, "f = 1", cases("@unittest.skip('no')\ndef test_a(self): pass"))
    assert (report.verdict, report.passed, report.total) == ("failed", 0, 1)


def test_a_program_that_does_not_compile_fails_with_its_reason(judge: Judge) -> None:
    report = judged(judge, "def f(:", cases("def test_a(self): pass"))
    assert (report.verdict, report.passed) == ("failed", 0)
    assert "SyntaxError" in report.reason


def test_humaneval(judge: Judge) -> None:
    prompt = 'def helper(x):\n    return x + 1\n\ndef f(x):\n    """Doc."""\n'
    source = """
def check(candidate):
    assert candidate(1) == helper(1)
    assert abs(candidate(2) - 3.0) < 1e-6
"""
    tests = check_function(source, "f", setup=prompt)
    assert judge.judge({"solution.py": prompt + "    return x + 1\n"}, tests, LIMITS).verdict == "passed"
    wrong = judge.judge({"solution.py": prompt + "    return x\n"}, tests, LIMITS)
    assert (wrong.verdict, wrong.passed, wrong.total) == ("failed", 0, 1)


def test_the_helper_of_the_prompt_counts_and_not_the_programs(judge: Judge) -> None:
    prompt = 'def helper(x):\n    return x + 1\n\ndef f(x):\n    """Doc."""\n'
    tests = check_function("def check(candidate):\n    assert candidate(1) == helper(1)\n", "f", setup=prompt)
    program = "def helper(x): return 0\ndef f(x): return 0\n"
    assert judge.judge({"solution.py": program}, tests, LIMITS).verdict == "failed"


def test_mbpp(judge: Judge) -> None:
    lines = [
        "assert f(4) == 2.0",
        "assert isclose(f(2), math.sqrt(2))",
        "assert Pair(1, 2).total() == 3",
        "assert f(9) == 4",
    ]
    tests = assertions(lines, setup="import math\nfrom math import isclose")
    program = """
from math import sqrt as f
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
    def total(self): return self.a + self.b
"""
    report = judge.judge({"solution.py": program}, tests, LIMITS)
    assert [test.became for test in report.tests] == ["passed", "passed", "passed", "failed"]
    assert (report.passed, report.total) == (3, 4)


def test_calls_compare_as_json_does(judge: Judge) -> None:
    program = (
        "def f(kind):\n"
        "    return {'tuple': (1, (2,)), 'float': 0.1 + 0.2, 'one': True, 'map': {1: 'a'}, 'none': None,\n"
        "            'gen': (x for x in [1, 2]), 'nan': float('nan')}[kind]\n"
    )
    given = [
        ("tuple", [1, [2]]),
        ("float", 0.3),
        ("one", 1),
        ("map", {"1": "a"}),
        ("none", None),
        ("gen", [1, 2]),
        ("nan", 1.0),
    ]
    report = judge.judge(
        {"solution.py": program}, calls("f", [([kind], right) for kind, right in given], tolerance=1e-9), LIMITS
    )
    assert [test.became == "passed" for test in report.tests] == [True, True, False, True, True, True, False]


def test_calls_of_a_method_of_solution_and_several_right_values(judge: Judge) -> None:
    program = "class Solution:\n    def two(self, a, b):\n        return [b, a]\n"
    tests = calls("two", [([1, 2], [[1, 2], [2, 1]]), ([1, 2], [[1, 2]])], several=True)
    report = judge.judge({"solution.py": program}, tests, LIMITS)
    assert [test.became for test in report.tests] == ["passed", "failed"]


PYTEST = """
import pytest
from program import f, Error

@pytest.fixture
def three():
    yield 3

@pytest.fixture(params=[1, 2])
def each(request):
    return request.param

def test_fixture(three): assert f(three) == 6
def test_params(each): assert f(each) == 2 * each
@pytest.mark.parametrize("x, y", [(1, 2), pytest.param(2, 4, id="two"), (3, 7)])
def test_pairs(x, y): assert f(x) == y
@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize("b", [3, 4])
def test_product(a, b): assert f(a) * b == 2 * a * b
def test_raises():
    with pytest.raises(Error, match="bad"): f(None)
    with pytest.raises(ValueError) as raised: f(None)
    assert str(raised.value) == "bad input"
def test_not_raised():
    with pytest.raises(ValueError): f(1)
def test_approx():
    assert f(0.1) + f(0.05) == pytest.approx(0.3)
    assert [f(0.1)] == pytest.approx([0.2])
    assert f(1) != pytest.approx(2.1)
@pytest.mark.skipif(True, reason="never")
def test_skipped(): assert False
@pytest.mark.xfail
def test_may_fail(): assert f(1) == 3
def test_skips_itself(): pytest.skip("no")
def test_fails_itself(): pytest.fail("yes")
def test_prints(capsys):
    f("print")
    assert capsys.readouterr().out == "printed\\n"
def test_patches(monkeypatch):
    monkeypatch.setattr("program.FACTOR", 5)
    assert f(1) == 5
def test_files(tmp_path):
    (tmp_path / "a").write_text("1")
    assert f(int((tmp_path / "a").read_text())) == 2

class TestGroup:
    def setup_method(self): self.x = 4
    def test_method(self): assert f(self.x) == 8
"""
PYTEST_PROGRAM = """
FACTOR = 2
class Error(ValueError): pass
def f(x):
    if x is None: raise Error("bad input")
    if x == "print": return print("printed")
    return x * FACTOR
"""


def test_pytest_files(judge: Judge) -> None:
    report = judged(judge, PYTEST_PROGRAM, test_files({"test_it.py": PYTEST}, "pytest"))
    found = {test.name.partition("::")[2]: test.became for test in report.tests}
    wrong = {name for name, what in found.items() if what in ("failed", "error")}
    assert wrong == {"test_pairs[2]", "test_not_raised", "test_fails_itself"}
    assert {name for name, what in found.items() if what == "skipped"} == {"test_skipped", "test_skips_itself"}
    assert {f"test_product[{number}]" for number in range(4)} <= found.keys()
    assert {"test_params[0]", "test_params[1]", "TestGroup::test_method", "test_prints", "test_patches"} <= found.keys()


def test_what_the_subset_of_pytest_lacks_is_an_error(judge: Judge) -> None:
    source = "import pytest\ndef test_a(recwarn): pass\ndef test_b(): pytest.warns(UserWarning)\n"
    report = judged(judge, "", test_files({"test_it.py": source}, "pytest"))
    assert [test.became for test in report.tests] == ["error", "error"]


@pytest.mark.filterwarnings("ignore:sandbox=none")
def test_without_rooms_no_program_is_judged() -> None:
    with pytest.raises(SandboxError, match="no rooms"):
        Judge(sandbox("none")).judge({"program.py": ""}, cases("def test_a(self): pass"), LIMITS)


def test_files_without_tests_are_refused() -> None:
    with pytest.raises(ConfigError, match="No file of tests"):
        test_files({"helper.py": "x = 1"})


# ---------------------------------------------------------------------- what crosses

OBJECTS = '''
import collections, enum, functools, dataclasses

class Empty(Exception):
    def __init__(self, message, code=7):
        super().__init__(message)
        self.code = code

class Stack:
    """A stack."""
    made = 0
    def __init__(self, items=()):
        self.items = list(items)
        Stack.made += 1
    def push(self, *, item): self.items.append(item); return self
    def pop(self):
        if not self.items: raise Empty("The stack is empty.")
        return self.items.pop()
    @classmethod
    def of(cls, *items): return cls(items)
    @property
    def top(self): return self.items[-1]
    @top.setter
    def top(self, value): self.items[-1] = value
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __contains__(self, item): return item in self.items
    def __getitem__(self, at): return self.items[at]
    def __setitem__(self, at, value): self.items[at] = value
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
    def __lt__(self, other): return len(self) < len(other)
    def __hash__(self): return hash(tuple(self.items))
    def __add__(self, other): return Stack(self.items + (other.items if isinstance(other, Stack) else [other]))
    def __radd__(self, other): return Stack([other] + self.items)
    def __bool__(self): return bool(self.items)
    def __repr__(self): return f"Stack({self.items})"
    def __enter__(self): return self
    def __exit__(self, kind, error, traceback): return kind is KeyError
    def __call__(self, n): return n * 2

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0

Pair = collections.namedtuple("Pair", "left right")
class Color(enum.Enum):
    RED = 1
class Level(enum.IntEnum):
    LOW = 1
class Row(list):
    def total(self): return sum(self)

def sort_in_place(items, key=None): items.sort(key=key)
def change(mapping, members, data): mapping["new"] = [1]; members.discard(1); data.extend(b"z")
def same(items): return items
def swap(pair): pair[0], pair[1] = pair[1], pair[0]
def count_up():
    n = 0
    while True:
        yield n
        n += 1
def apply(function, *arguments): return function(*arguments)
def each(items): return [item for item in items]
def decorated(function):
    @functools.wraps(function)
    def inner(*arguments): return function(*arguments) + 1
    return inner
def level(): return Level.LOW
def row(): return Row([1, 2])
def pair(): return Pair(1, 2)
def counts(text): return collections.Counter(text)
def groups(): return collections.defaultdict(list, a=[1])
def point(x): return Point(x)
def use(thing):
    thing.seen = True
    with thing as opened: return opened.read(3) + thing.kind
def largest(things): return max(things, key=lambda thing: thing.size).size
def fails(): raise KeyError("k")
def nested(n): return recurse(n)
def recurse(n): return recurse(n + 1)
'''

OBJECT_TESTS = {
    "methods and attributes": """
s = Stack([1]).push(item=2)
self.assertEqual((s.pop(), s.top, len(s), list(s), s[0], 1 in s, 5 in s, bool(s)), (2, 1, 1, [1], 1, True, False, True))
s.top = 9; s[0] = s[0] + 1
self.assertEqual(s.items, [10])
self.assertEqual(Stack.of(1, 2).items, [1, 2])
self.assertEqual(repr(Stack([1])), "Stack([1])")
self.assertEqual(f"{Stack([1])!r:>12}", "  Stack([1])")
self.assertEqual(Stack.__doc__, "A stack.")
self.assertEqual(Stack.__name__, "Stack")
del s.items
with self.assertRaises(AttributeError): s.items
""",
    "equality and order of objects": """
self.assertEqual(Stack([1]), Stack([1]))
self.assertNotEqual(Stack([1]), Stack([2]))
self.assertEqual(hash(Stack([1])), hash(Stack([1])))
self.assertEqual({Stack([1]): 1}[Stack([1])], 1)
self.assertLess(Stack(), Stack([1]))
self.assertEqual([len(s) for s in sorted([Stack([1]), Stack()])], [0, 1])
self.assertIn(Point(1), [Point(0), Point(1)])
self.assertEqual(Point(1), Point(1, 0))
self.assertTrue(Point(1) < Point(2))
s = Stack(); self.assertIs(s.push(item=1), s)
self.assertIsInstance(s, Stack); self.assertNotIsInstance(5, Stack); self.assertNotIsInstance(s, int)
""",
    "operators of what tests have made": """
self.assertEqual(Stack([1]) + Stack([2]), Stack([1, 2]))
self.assertEqual(Stack([1]) + 2, Stack([1, 2]))
self.assertEqual(0 + Stack([1]), Stack([0, 1]))
self.assertEqual(Stack()(4), 8)
with Stack([1]) as s: raise KeyError
with self.assertRaises(ValueError):
    with Stack([1]) as s: raise ValueError
""",
    "exceptions": """
with self.assertRaises(Empty) as err: Stack().pop()
self.assertEqual(type(err.exception), Empty)
self.assertEqual(err.exception.args[0], "The stack is empty.")
self.assertEqual(str(err.exception), "The stack is empty.")
self.assertEqual(err.exception.code, 7)
with self.assertRaises(KeyError) as err: fails()
self.assertEqual(err.exception.args, ("k",))
with self.assertRaises(TypeError): Stack(1, 2, 3)
with self.assertRaises(RecursionError) as err: nested(0)
self.assertEqual(err.exception.args[0][:32], "maximum recursion depth exceeded")
with self.assertRaises(AttributeError): Stack().nothing
""",
    "changes in place": """
items = [3, 1, 2]; sort_in_place(items); self.assertEqual(items, [1, 2, 3])
sort_in_place(items, key=lambda x: -x); self.assertEqual(items, [3, 2, 1])
mapping, members, data = {"a": 1}, {1, 2}, bytearray(b"a")
change(mapping, members, data)
self.assertEqual((mapping, members, data), ({"a": 1, "new": [1]}, {2}, bytearray(b"az")))
self.assertIs(same(items), items)
pair = [[1], [2]]; first, second = pair; swap(pair)
self.assertIs(pair[0], second); self.assertIs(pair[1], first)
deep = [[3, 1]]; sort_in_place(deep[0]); self.assertEqual(deep, [[1, 3]])
""",
    "generators and iterators": """
numbers = count_up()
self.assertEqual([next(numbers), next(numbers)], [0, 1])
self.assertEqual(next(numbers), 2)
self.assertEqual([x for x, _ in zip(count_up(), range(3))], [0, 1, 2])
self.assertEqual(each(x * x for x in range(4)), [0, 1, 4, 9])
self.assertEqual(each(iter([1, 2])), [1, 2])
self.assertEqual(each(range(3)), [0, 1, 2])
self.assertIsNot(iter(numbers), None)
numbers.close()
self.assertEqual(list(numbers), [])
""",
    "functions of the tests": """
self.assertEqual(apply(lambda x: x + 1, 2), 3)
self.assertEqual(apply(str.upper, "a"), "A")
self.assertEqual(apply(len, [1, 2]), 2)
self.assertEqual(apply(int, "12"), 12)
self.assertEqual(apply(lambda f, x: f(x), lambda x: x * 2, 4), 8)
self.assertEqual(apply(lambda x: apply(lambda y: y + 1, x), 1), 2)
self.assertEqual(decorated(lambda x: x)(1), 2)
def named(): "Says."
self.assertEqual((decorated(named).__name__, decorated(named).__doc__), ("named", "Says."))
seen = []
apply(seen.append, 5); self.assertEqual(seen, [5])
def fail(): raise Own("mine")
with self.assertRaises(Own) as err: apply(fail)
self.assertEqual(str(err.exception), "mine")
given = Own("given")
def fail_again(): raise given
with self.assertRaises(Own) as err: apply(fail_again)
self.assertIs(err.exception, given)
""",
    "objects of the tests": """
thing = Thing()
self.assertEqual(use(thing), "abck")
self.assertEqual((thing.seen, thing.closed), (True, True))
self.assertEqual(largest([Sized(1), Sized(5), Sized(3)]), 5)
self.assertIs(same(thing), thing)
""",
    "classes derived from built-in ones": """
self.assertEqual(level(), 1); self.assertEqual(level(), Level.LOW); self.assertEqual(level().name, "LOW")
self.assertEqual(Color.RED.value, 1); self.assertIs(Color(1), Color.RED)
self.assertEqual(row(), [1, 2]); self.assertEqual(row().total(), 3); self.assertEqual(row()[1], 2)
r = row(); r.append(5); self.assertEqual(r, [1, 2, 5])
self.assertEqual(pair(), (1, 2)); self.assertEqual(pair().left, 1); a, b = pair(); self.assertEqual(b, 2)
self.assertEqual(counts("aab"), {"a": 2, "b": 1}); self.assertEqual(counts("aab").most_common(1), [("a", 2)])
self.assertEqual(groups(), {"a": [1]})
self.assertEqual(level() + 1, 2); self.assertAlmostEqual(level(), 1.0)
""",
    "patches": """
with mock.patch("program.fails", return_value=3) as patched:
    self.assertEqual(program.fails(), 3)
    self.assertEqual(program.apply(program.fails), 3)
    self.assertEqual(patched.call_count, 2)
with self.assertRaises(KeyError): program.fails()
with mock.patch("program.open", mock.mock_open(read_data="text"), create=True): pass
answer = mock.Mock(return_value=4)
self.assertEqual(apply(answer, 1), 4); answer.assert_called_once_with(1)
with mock.patch("sys.stdout", new_callable=io.StringIO) as out: program.apply(print_it)
""",
    "input and output": """
with mock.patch("builtins.input", side_effect=["a", "b"]): self.assertEqual(program.read(), "ab")
with mock.patch("sys.stdin", io.StringIO("c\\nd\\n")): self.assertEqual(program.read(), "cd")
with mock.patch("builtins.print") as printed: program.write("x"); printed.assert_called_once_with("x")
with mock.patch("builtins.open", mock.mock_open(read_data="text")): self.assertEqual(program.load("f"), "text")
with self.assertRaises(EOFError): program.read()
with mock.patch("sys.stdout", new_callable=io.StringIO) as out: program.write("y")
self.assertEqual(out.getvalue(), "y\\n")
""",
    "coroutines": """
import asyncio
async def both(): return await program.later(1) + sum(await asyncio.gather(program.later(2), program.later(3)))
self.assertEqual(asyncio.run(both()), 6)
""",
    "the same random numbers": """
import random
random.seed(5); one = program.draw(); random.seed(5); self.assertEqual(program.draw(), one)
""",
}
BEFORE = """
import io, program
from unittest import mock
class Own(Exception): pass
def print_it(): print("x")
class Thing:
    kind = b"k".decode()
    seen = closed = False
    def __enter__(self): return io.StringIO("abcdef")
    def __exit__(self, *raised): self.closed = True
class Sized:
    def __init__(self, size): self.size = size
"""


INPUT = """
def read(): return input() + input("more? ")
def write(text): print(text)
def load(path):
    with open(path) as file: return file.read()
async def later(x): return x
"""


@pytest.mark.parametrize("name", OBJECT_TESTS)
def test_tests_see_of_a_program(judge: Judge, name: str) -> None:
    body = "def test_it(self):\n" + "\n".join(f"    {line}" for line in OBJECT_TESTS[name].strip().splitlines())
    program = OBJECTS + "\nimport random\ndef draw(): return random.random()\n" + INPUT
    report = judged(judge, program, cases(body, BEFORE))
    assert report.reason == ""
    assert report.verdict == "passed"


def test_packages_and_modules_of_the_tests_are_imported(judge: Judge) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/deep/part.py": "from pkg.other import g\ndef f(): return g()",
        "pkg/other.py": "def g(): return 3",
    }
    source = """
from pkg.deep.part import f
import pkg.other as o
from running import RIGHT
def test_f(): assert f() == o.g() == RIGHT
"""
    tests = test_files({"test_it.py": source, "running.py": "RIGHT = 3"}, "pytest")
    report = judge.judge(files, tests, LIMITS)
    assert report.reason == ""
    assert report.verdict == "passed"


def test_a_program_never_learns_what_it_is_compared_with(judge: Judge) -> None:
    program = """
told = []
class Spy:
    def __eq__(self, other): told.append(repr(other)); return False
    __hash__ = object.__hash__
    def __sub__(self, other): told.append(repr(other)); return self
    def __contains__(self, other): told.append(repr(other)); return True
    def __iter__(self): return iter([1])
def f(): return Spy()
"""
    body = """
def test_a(self):
    wrong = (AssertionError, TypeError)
    with self.assertRaises(wrong): self.assertEqual(f(), "secret")
    with self.assertRaises(wrong): self.assertAlmostEqual(f(), 17.25)
    with self.assertRaises(wrong): self.assertIn("secret", f())
    with self.assertRaises(wrong): abs(f() - 17.25) < 1
    self.assertFalse(any("secret" in each or "17.25" in each for each in told))
"""
    assert judged(judge, program, cases(body)).verdict == "passed"


def test_tests_leave_nothing_behind_for_the_next_ones(judge: Judge) -> None:
    tests = cases(
        """
def test_a(self):
    import os
    self.assertEqual(os.listdir('/tmp/work'), [])
    open('/tmp/work/x', 'w').close()
"""
    )
    assert [judged(judge, "", tests).verdict for _ in range(3)] == ["passed"] * 3


def test_a_program_runs_as_long_as_it_may_and_the_tests_before_count(judge: Judge) -> None:
    began = time.monotonic()
    report = judge.judge(
        {"program.py": "def f(x):\n    while x: pass\n    return x"},
        cases(
            """
def test_a(self): self.assertEqual(f(0), 0)
def test_b(self): f(1)
def test_c(self): self.assertEqual(f(0), 0)
"""
        ),
        Limits(time_s=1),
    )
    assert report.verdict == "timeout"
    assert became(report) == {"test_a": "passed", "test_b": "error", "test_c": "error"}
    assert time.monotonic() - began < 6


def test_programs_judged_at_once_do_not_meet(judge: Judge) -> None:
    reports: dict[int, TestReport] = {}

    def one(number: int) -> None:
        program = f"def f(): return {number}"
        reports[number] = judged(judge, program, cases(f"def test_a(self): self.assertEqual(f(), {number % 3})"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reports[number].verdict for number in range(6)] == ["passed"] * 3 + ["failed"] * 3


REACHES_IN = """
import inspect, unittest
import program

class It(unittest.TestCase):
    def test_source(self): self.assertIn("return 1", inspect.getsource(program.f))
    def test_derived(self):
        class Mine(program.Base): pass
        self.assertEqual(Mine().g(), 2)
"""
BASE = "def f():\n    return 1\nclass Base:\n    def g(self): return 2\n"


def test_tests_that_reach_into_the_program_need_one_process_and_must_ask_for_it(judge: Judge) -> None:
    files = {"it_test.py": REACHES_IN}
    assert judged(judge, BASE, test_files(files)).passed == 0
    report = judged(judge, BASE, test_files(files, in_one_process=True))
    assert (report.verdict, report.passed, report.total) == ("passed", 2, 2)


@pytest.mark.parametrize(
    "cheat",
    [
        "import os; os._exit(0)",
        "import unittest; unittest.TestCase.assertEqual = unittest.TestCase.assertIn = lambda *a: None",
        "import builtins; builtins.isinstance = lambda *a: True",
        "def f(): raise KeyboardInterrupt\nclass Base: g = f",
        "print('0' * 32 + ' {}')",
    ],
)
def test_in_one_process_plain_cheats_do_not_pass_either(judge: Judge, cheat: str) -> None:
    report = judged(judge, cheat, test_files({"it_test.py": REACHES_IN}, in_one_process=True))
    assert report.verdict != "passed"
    assert report.passed == 0
