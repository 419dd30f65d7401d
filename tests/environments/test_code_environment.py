"""The code environment in the real sandbox: rewards, limits, early stop, and failures that are nobody's reward."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.attempts import attempt_of
from cascade.environments.catalogue import environment_alone
from cascade.environments.code import Code
from cascade.errors import ConfigError, FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.programs import missing
from cascade.types import Row, Score
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.local import LocalVerifiers

ADD = {"question": "Add.", "tests": [{"input": f"{n} 1\n", "output": f"{n + 1}\n"} for n in range(4)]}
RIGHT = "print(sum(map(int, input().split())))"
CPP = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
SOLVE = {
    "question": "Join.",
    "tests": {"inputs": ["[1]\n2", "[]\n5"], "outputs": ["[1, 2]", "[5]"], "fn_name": "solve"},
}


def available() -> str:
    try:
        sandbox("bwrap")
    except SandboxError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(available()), reason=f"there is no sandbox here: {available()}")
needs_cpp = pytest.mark.skipif(bool(missing("cpp")), reason=f"C++ cannot be run here: {missing('cpp')}")


def row(record: Mapping[str, Any]) -> Row:
    data = Code().read(record)
    return Row(f"code/{hash(json.dumps(data, sort_keys=True))}", "code", "code", data)


def scored(record: Mapping[str, Any], answer: str, **params: Any) -> Score:
    return Code(**params).score(row(record), answer)


@pytest.mark.parametrize("answer", [RIGHT, f"So:\n```python\n{RIGHT}\n```", f"import sys\n{RIGHT}\nsys.exit(0)\n"])
def test_a_right_program_earns_one(answer: str) -> None:
    score = scored(ADD, answer)
    assert score.reward == 1.0
    assert (score.parts["passed"], score.parts["total"], score.parts["compiled"], score.parts["no_code"]) == (
        4,
        4,
        1,
        0,
    )
    assert 0 < score.parts["slowest_s"] <= score.parts["wall_s"]
    assert score.parts["peak_memory_mib"] > 1


@needs_cpp
def test_programs_in_cpp_are_compiled_once_and_run() -> None:
    assert scored(ADD, f"```cpp\n{CPP}\n```").reward == 1.0
    assert scored({**ADD, "language": "cpp"}, CPP).reward == 1.0
    broken = scored(ADD, "```cpp\nint main() { return }\n```")
    assert (broken.reward, broken.parts["compiled"], broken.parts["runtime_error"]) == (0.0, 0.0, 1.0)
    assert scored({**ADD, "language": "python"}, f"```cpp\n{CPP}\n```").parts["no_code"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("print(1)", "wrong"), ("print(int(input().split()[0]) // 0)", "runtime_error"),
        (f"{RIGHT}\nimport sys\nsys.exit(3)", "runtime_error"), ("while True:\n    pass", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"), ("x = bytearray(2 << 30)", "memory"),
        ("while True:\n    print('x' * 4096)", "output_limit"), ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ],
)  # fmt: skip
def test_why_a_program_fails_is_counted(answer: str, reason: str) -> None:
    score = scored({**ADD, "time_limit_s": 1, "memory_mib": 128}, answer)
    assert score.reward == 0.0
    failed = {name: score.parts[name] for name in score.parts if name in REASONS and score.parts[name]}
    assert failed == {reason: 1.0}
    assert score.parts["passed"] + 1 <= score.parts["total"]  # it stops at the first failure


REASONS = ("wrong", "runtime_error", "timeout", "memory", "output_limit", "killed")


@pytest.mark.parametrize("answer", ["", "I cannot.", "```python\n```", "```rust\nfn main() {}\n```"])
def test_no_code_says_so_and_starts_nothing(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.environments.code.sandbox", lambda name: pytest.fail("a sandbox was asked for"))
    score = scored(ADD, answer)
    assert (score.reward, score.parts["no_code"]) == (0.0, 1.0)


@pytest.mark.parametrize("answer", ["print(3", "(" * 100_000, "x = " + "-" * 100_000 + "1", "if True:\nprint(1)"])
def test_what_python_cannot_parse_is_a_program_that_fails(answer: str) -> None:
    assert scored(ADD, f"```python\n{answer}\n```").reward == 0.0


def test_a_share_of_the_tests_where_it_is_asked_for() -> None:
    even = "a, b = map(int, input().split())\nprint(a + b if a % 2 == 0 else 'odd')"
    assert scored(ADD, even).reward == 0.0
    score = scored(ADD, even, partial=True)
    assert (score.reward, score.parts["passed"], score.parts["wrong"]) == (0.5, 2.0, 2.0)
    assert scored(ADD, RIGHT, partial=True).reward == 1.0


def test_only_so_many_tests_of_a_row_are_run() -> None:
    first = "print(1 if input() == '0 1' else 'no')"
    assert scored(ADD, first, max_tests=1).reward == 1.0
    assert scored(ADD, first, max_tests=2).parts["total"] == 2


def test_a_function_and_a_method_are_called() -> None:
    for answer in (
        "def solve(xs, x):\n    print('debugging')\n    return [*xs, x]",
        "class Solution:\n    def solve(self, xs: List[int], x: int) -> List[int]:\n        return xs + [x]",
        "solve = lambda xs, x: tuple(xs) + (x,)",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "def solve(xs, x):\n    q = deque(xs)\n    q.append(P(x).x)\n    return list(q)",
    ):
        assert scored(SOLVE, f"```python\n{answer}\n```").reward == 1.0, answer
    for answer in ("def solve(xs, x):\n    return {x}", "def solve(xs):\n    return xs", "def other(): pass",
                   "def solve(xs, x):\n    return float('nan')", "def solve(*_):\n    raise SystemExit",
                   "def solve(*_):\n    x = []\n    x.append(x)\n    return x"):  # fmt: skip
        assert scored(SOLVE, f"```python\n{answer}\n```").reward == 0.0, answer


def test_rows_of_livecodebenchs_form_have_its_imports_and_its_depth() -> None:
    cases = {"inputs": ["9000\n"], "outputs": ["9000\n"]}
    nemo = {"responses_create_params": {"input": "?"}, "verifier_metadata": {"unit_tests": cases}}
    program = (
        "def depth(n):\n    return n and 1 + depth(n - 1)\n\nif __name__ == '__main__':\n"
        "    line = deque([stdin.readline()])\n    print(depth(int(line.pop())), end='.00')"
    )
    assert scored(nemo, f"```python\n{program}\n```").reward == 1.0
    assert scored({"question": "?", "tests": cases}, program).reward == 0.0


def test_large_values_pass_through() -> None:
    record = {"question": "?", "fn_name": "f", "tests": [{"args": [3000], "output": 7**3000}]}
    assert scored(json.loads(json.dumps(record)), "def f(n):\n    return 7**n").reward == 1.0
    deep = scored(record, "def f(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x")
    assert deep.reward == 0.0


CHECKER = """
import sys
given, output, expected = (open(name).read().split() for name in sys.argv[1:])
a, b = map(int, output)
sys.exit(0 if a * b == int(given[0]) and 1 not in (a, b) else 1)
"""
FACTORS = {"question": "Factor.", "tests": [{"input": "35", "output": "5 7"}], "checker": CHECKER}


def test_a_checker_program_of_the_row_decides() -> None:
    assert scored(FACTORS, "print(7, 5)").reward == 1.0
    assert scored(FACTORS, "print(1, 35)").reward == 0.0
    asserting = CHECKER.replace("sys.exit(0 if", "assert (True if").replace("else 1)", "else False)")
    assert scored({**FACTORS, "checker": asserting}, "print(7, 5)").reward == 1.0
    assert scored({**FACTORS, "checker": asserting}, "print(1, 35)").reward == 0.0


@needs_cpp
def test_a_checker_in_cpp_decides() -> None:
    source = """#include <fstream>
int main(int, char** names) { int n, a, b; std::ifstream(names[1]) >> n; std::ifstream f(names[2]);
  return f >> a >> b && a * b == n && a != 1 && b != 1 ? 0 : 1; }"""
    record = {**FACTORS, "checker": {"kind": "program", "language": "cpp", "source": source}}
    assert scored(record, "print(7, 5)").reward == 1.0
    assert scored(record, "print('seven')").reward == 0.0
    with pytest.raises(VerifierFailure) as failure:
        scored({**FACTORS, "checker": {"source": "#include <nothing>\nint main() {}"}}, "print(7, 5)")
    assert failure.value.kind is FailureKind.DATA


@pytest.mark.parametrize(
    "source", ["1 / 0\n\n", "import sys\nsys.exit(3)", "import os\nos.abort()", "while (\n", "raise SystemExit(42)\n"]
)
def test_a_broken_checker_is_a_failure_of_the_row(source: str) -> None:
    with pytest.raises(VerifierFailure, match="checker of the row") as failure:
        scored({**FACTORS, "checker": {"source": source}}, "print(7, 5)")
    assert failure.value.kind is FailureKind.DATA


def test_a_sandbox_that_is_not_there_is_nobodys_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise SandboxError(f"{name} is not installed.", "Install it.")

    monkeypatch.setattr("cascade.environments.code.sandbox", broken)
    with pytest.raises(VerifierFailure, match="Install it") as failure:
        scored(ADD, RIGHT)
    assert failure.value.kind is FailureKind.INFRASTRUCTURE


def test_equal_programs_in_other_words_are_run_once() -> None:
    environment, task = Code(), row(ADD)
    first = environment.score(task, f"```python\n{RIGHT}\n```")
    assert environment.score(task, f"Or so:\n\n```py\n{RIGHT}\n```\nDone.") is first
    assert environment.score(task, f"```python\n{RIGHT} # else\n```") is not first


@pytest.mark.parametrize(
    "params",
    [{"max_tests": 0}, {"time_limit_s": 0.0}, {"memory_mib": -1}, {"deadline_s": 1.0}, {"deadline_s": float("inf")}],
)
def test_parameters_without_a_meaning_are_config_errors(params: Any) -> None:
    with pytest.raises(ConfigError):
        Code(**params)


HUMANEVAL = {
    "prompt": 'from typing import List\n\n\ndef double(x: int) -> int:\n    return 2 * x\n\n\n'
    'def doubled(xs: List[int]) -> List[int]:\n    """Doubles each."""\n',
    "entry_point": "doubled",
    "canonical_solution": "    return [double(x) for x in xs]\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [double(1), double(2)]\n",
}  # fmt: skip
MBPP = {"text": "Write add.", "code": "def add(a, b):\n    return a + b", "test_setup_code": "import math",
        "test_list": ["assert add(1, 2) == 3", "assert math.isclose(add(0.1, 0.2), 0.3)"]}  # fmt: skip
EXERCISM = {
    "statement": "Write add.",
    "stub": {"add.py": "def add(a, b):\n    pass\n"},
    "reference": {"add.py": "def add(a, b):\n    return a + b\n"},
    "tests": {
        "add_test.py": "import unittest\n\nfrom add import add\n\n\nclass AddTest(unittest.TestCase):\n"
        "    def test_small(self):\n        self.assertEqual(add(1, 2), 3)\n\n"
        "    def test_words(self):\n        self.assertEqual(add('a', 'b'), 'ab')\n"
    },
    "extra": {},
}
QUIXBUGS = {
    "buggy": "def gcd(a, b):\n    return a if b == 0 else gcd(a % b, b)\n",
    "fixed": "def gcd(a, b):\n    return a if b == 0 else gcd(b, a % b)\n",
    "test": "import pytest\nfrom load_testdata import load_json_testcases\n\nif pytest.use_correct:\n"
    "    from correct_python_programs.gcd import gcd\nelse:\n    from python_programs.gcd import gcd\n\n"
    "testdata = load_json_testcases(gcd.__name__)\n\n\n"
    '@pytest.mark.parametrize("input_data,expected", testdata)\n'
    "def test_gcd(input_data, expected):\n    assert gcd(*input_data) == expected\n",
    "cases": "[[17, 0], 17]\n[[13, 13], 13]\n[[37, 600], 1]\n",
}
PYTEST = {
    "question": "Write add.",
    "test": "from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "solution": "def add(a, b):\n    return a + b\n",
}


@pytest.mark.parametrize("record", [HUMANEVAL, MBPP, EXERCISM, QUIXBUGS, PYTEST, {**ADD, "solution": RIGHT}])
def test_gold_answers_of_every_form_earn_one(record: Mapping[str, Any]) -> None:
    task = row(record)
    assert Code().score(task, Code().gold(task)).reward == 1.0


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (HUMANEVAL, HUMANEVAL["canonical_solution"]),
        (HUMANEVAL, HUMANEVAL["canonical_solution"].strip()),
        (HUMANEVAL, "```python\ndef doubled(xs: List[int]) -> List[int]:\n    return [x + x for x in xs]\n```"),
        (EXERCISM, EXERCISM["reference"]["add.py"]),
        (QUIXBUGS, f"The arguments are swapped.\n```python\n{QUIXBUGS['fixed']}```"),
    ],
)
def test_answers_to_rows_with_files_of_tests(record: Mapping[str, Any], answer: str) -> None:
    assert scored(record, answer).reward == 1.0


@pytest.mark.parametrize(
    ("record", "answer", "passed"),
    [
        (HUMANEVAL, "    return None\n", 0),
        (HUMANEVAL, "def double(x): return 0\ndef doubled(xs): return [0 for _ in xs]", 0),
        (EXERCISM, "def add(a, b):\n    return None\n", 0), (EXERCISM, "def add(a, b): return 3", 1),
        (EXERCISM, "def add(a, b: return", 0), (QUIXBUGS, QUIXBUGS["buggy"], 1),
        (MBPP, "def add(a, b): return 3", 1), (PYTEST, "import os\nos._exit(0)", 0),
    ],
)  # fmt: skip
def test_wrong_answers_to_rows_with_files_of_tests(record: Mapping[str, Any], answer: str, passed: int) -> None:
    score = scored({**record, "time_limit_s": 5}, answer)
    assert (score.reward, score.parts["passed"]) == (0.0, passed)
    assert scored({**record, "time_limit_s": 5}, answer, partial=True).reward == passed / score.parts["total"]


def test_the_pool_gives_the_same_verdicts() -> None:
    config, environment = environment_alone("code_gen", {"time_limit_s": 2.0})
    verifiers = LocalVerifiers({"code": environment}, {"code": EnvironmentSpec("code", config, 0)}, workers=2)
    answers = [RIGHT, "print(0)", "import time\ntime.sleep(9)", "none", "import os\nos.kill(1, 9)"] * 2
    try:
        (verdicts,) = verifiers.verify([Job("code", row(ADD), tuple(map(attempt_of, answers)))])
    finally:
        verifiers.close()
    assert [verdict.status for verdict in verdicts] == ["ok"] * 10, [verdict.reason for verdict in verdicts]
    assert [verdict.score.reward for verdict in verdicts if verdict.score] == [1.0, 0.0, 0.0, 0.0, 0.0] * 2


DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def test_a_stub_as_it_was_given_earns_nothing_even_where_it_passes() -> None:
    right = {**EXERCISM, "stub": EXERCISM["reference"]}
    unchanged = scored(right, EXERCISM["reference"]["add.py"] + "\n\n")
    assert (unchanged.reward, unchanged.parts["unchanged"]) == (0.0, 1.0)
    assert scored(right, EXERCISM["reference"]["add.py"] + "# put better\n").reward == 1.0


@pytest.mark.skipif(
    not (DATA / "exercism").is_dir(), reason=f"exercism is not at {DATA}; set CASCADE_DATA to the folder that holds it"
)
@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        ("humaneval/HumanEval", "canonical_solution", "    return None\n"),
        ("quixbugs/programs", "fixed", "buggy"),
        ("exercism/practice", "reference", "stub"),
    ],
)
def test_real_rows_tell_right_from_wrong(source: str, right: str, wrong: str) -> None:
    lines = gzip.decompress((DATA / f"{source}.jsonl.gz").read_bytes()).decode().splitlines()
    records = [json.loads(line) for line in lines][3::36]
    for record in records:
        for key, reward in ((right, 1.0), (wrong, 0.0)):
            answer = record.get(key, key)
            answer = next(iter(answer.values())) if isinstance(answer, dict) else answer
            assert scored({**record, "time_limit_s": 3}, answer).reward == reward, (record["task_id"], key)
