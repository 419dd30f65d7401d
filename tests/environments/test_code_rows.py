"""Rows of programming tasks in the forms that people have them, and malformed ones."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from cascade.environments.code import Code
from cascade.environments.code_rows import read_code
from cascade.errors import DataError
from cascade.types import Row

CASES = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
TESTS = [{"input": "1 2\n", "output": "3\n"}, {"input": "3 4\n", "output": "7\n"}]
CALLS = {"inputs": ["[1, 2]\n3", '[]\n"a"'], "outputs": ["[3]", "null"], "fn_name": "solve"}
READ_CALLS = [{"args": [[1, 2], 3], "any_of": [[3]]}, {"args": [[], "a"], "any_of": [None]}]
ASKED = [{"role": "user", "content": "Add."}]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
EXERCISM = {
    "task_id": "exercism/add",
    "statement": "Write add.",
    "stub": {"add.py": "def add(a, b):\n    pass\n"},
    "reference": {"add.py": "def add(a, b):\n    return a + b\n"},
    "tests": {"add_test.py": "import unittest\nfrom add import add\n\nclass T(unittest.TestCase):\n    pass\n"},
    "extra": {},
}
QUIXBUGS = {
    "task_id": "quixbugs/gcd",
    "buggy": "def gcd(a, b):\n    return a\n",
    "fixed": "def gcd(a, b):\n    return gcd(b, a % b) if b else a\n",
    "test": "import pytest\n\nif pytest.use_correct:\n    from correct_python_programs.gcd import gcd\nelse:\n"
    "    from python_programs.gcd import gcd\n",
    "cases": "[[4, 2], 2]\n",
}


def nemo(unit_tests: Any, **more: Any) -> dict[str, Any]:
    metadata = {"unit_tests": unit_tests, **more}
    return {"responses_create_params": {"input": ASKED}, "verifier_metadata": metadata, "hash_id": "x"}


@pytest.mark.parametrize(
    ("record", "checker"),
    [
        (nemo(CASES), "decimals"),
        (nemo(json.dumps(CASES)), "decimals"),
        (nemo({**CASES, "fn_name": None}), "decimals"),
        ({"problem_id": 1, "question": "Add.", "input_output": json.dumps(CASES), "solutions": "[]"}, "decimals"),
        ({"input_output": {"inputs": ["1 2\n", ["3 4", ""]], "outputs": [["3", ""], "7\n"]}}, "decimals"),
        ({"question_content": "Add.", "public_test_cases": json.dumps(TESTS)}, "decimals"),
        ({"prompt": "Add.", "reward_model": {"ground_truth": json.dumps(CASES)}}, "decimals"),
        ({"prompt": "Add.", "verification_info": json.dumps({"language": "python", "test_cases": TESTS})}, "decimals"),
        ({"prompt": ASKED, "unit_tests": CASES}, "decimals"),
        ({"prompt": ASKED, "tests": TESTS}, "lines"),
        ({"prompt": ASKED, "tests": json.dumps(TESTS)}, "lines"),
        ({"test_cases": [{"input": test["input"], "expected_output": test["output"]} for test in TESTS]}, "lines"),
    ],
)  # fmt: skip
def test_inputs_and_outputs_in_every_form(record: Mapping[str, Any], checker: str) -> None:
    data = read_code(record)
    assert [(test["input"], test["output"]) for test in data["tests"]] == [("1 2\n", "3\n"), ("3 4\n", "7\n")]
    assert data["checker"]["kind"] == checker


def test_the_tests_of_code_contests_come_in_its_order_with_its_rule() -> None:
    record = {
        "description": "Add.",
        "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": ["3 4\n"], "output": ["7\n"]},
        "solutions": {"language": [1, 2, 3], "solution": ["print 3", "int main() {}", "print(3)"]},
        "time_limit": {"seconds": 1, "nanos": 0},
    }
    data = read_code(record)
    assert data["tests"] == TESTS
    assert data["checker"] == {"kind": "float", "absolute": 1e-5, "relative": 0.0, "ignore_case": True}
    assert (data["gold"], data["question"]) == ("print(3)", "Add.")
    assert read_code({**record, "language": "cpp"})["gold"] == "int main() {}"
    assert "time_limit_s" not in data


def test_livecodebench_unpacks_its_hidden_tests() -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(TESTS[1:])))).decode()
    record = {"question_content": "Add.", "public_test_cases": json.dumps(TESTS[:1]), "private_test_cases": packed}
    assert read_code(record)["tests"] == TESTS
    functional = [{"input": "[1, 2]\n3", "output": "[3]", "testtype": "functional"}]
    record = {
        "public_test_cases": json.dumps(functional),
        "metadata": '{"func_name": "solve"}',
        "starter_code": "class Solution:",
    }
    data = read_code(record)
    assert (data["function"], data["calls"], data["starter_code"]) == ("solve", READ_CALLS[:1], "class Solution:")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle in a row was executed",))


@pytest.mark.parametrize("inside", [pickle.dumps(Harm()), b"", b"\x80\x04N.", b"garbage", pickle.dumps("{")])
def test_a_pickle_that_is_more_than_text_is_malformed(inside: bytes) -> None:
    packed = base64.b64encode(zlib.compress(inside)).decode()
    with pytest.raises(DataError):
        read_code({"question_content": "Add.", "private_test_cases": packed})


@pytest.mark.parametrize(
    "record",
    [
        nemo(CALLS),
        {"question": "Solve.", "input_output": json.dumps(CALLS)},
        {"question": "Solve.", "tests": CALLS},
        {"question": "Solve.", "fn_name": "solve", "tests": {key: CALLS[key] for key in ("inputs", "outputs")}},
    ],
)
def test_calls_of_a_function_in_every_form(record: Mapping[str, Any]) -> None:
    data = read_code(record)
    assert (data["function"], data["calls"]) == ("solve", READ_CALLS)


def test_calls_as_values() -> None:
    apps = {"inputs": [[[1, 2], 3]], "outputs": [[[3]]], "fn_name": "solve"}
    assert read_code({"question": "?", "input_output": json.dumps(apps)})["calls"] == [
        {"args": [[1, 2], 3], "any_of": [[[3]], [3]]}
    ]
    ours = {
        "question": "?",
        "function": "f",
        "tests": [{"args": [1], "expected": [2]}, {"kwargs": {"x": 1}, "output": None}],
    }
    assert read_code(ours)["calls"] == [{"args": [1], "any_of": [[2]]}, {"kwargs": {"x": 1}, "any_of": [None]}]


def test_our_own_rows_with_limits_checker_language_and_several_right_outputs() -> None:
    record = {
        "question": "Add.", "tests": [{"input": "1 2", "output": ["3", "three"]}, {"input": "", "accepted": ["0"]}],
        "checker": {"kind": "float", "abs": 1e-3}, "language": "C++17", "time_limit_s": 2, "memory_mib": 256,
        "solution": "#include <iostream>\nint main() { std::cout << 3; }",
    }  # fmt: skip
    data = read_code(record)
    assert data["tests"] == [{"input": "1 2", "output": ["3", "three"]}, {"input": "", "output": ["0"]}]
    assert (data["language"], data["time_limit_s"], data["memory_mib"]) == ("cpp", 2.0, 256)
    assert data["checker"] == {"kind": "float", "absolute": 1e-3, "relative": 0.0}
    row = Row("x", "code", "code", data)
    assert Code().gold(row).startswith("```cpp\n#include <iostream>")
    (message,) = Code().messages(row)
    assert "C++17" in message.get("content", "")
    assert "three" not in message.get("content", "")


def test_files_of_tests() -> None:
    data = read_code(HUMANEVAL)
    assert (data["entry_point"], data["gold"]) == ("add", HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"])
    data = read_code(EXERCISM)
    assert (data["unit_tests"]["framework"], data["unit_tests"]["files"]) == ("unittest", ["add.py"])
    assert data["gold"] == "```python\ndef add(a, b):\n    return a + b\n```"
    importing = {"add_test.py": "from test_utils import FileLike\n" + EXERCISM["tests"]["add_test.py"]}
    assert "class FileLike" in read_code({**EXERCISM, "tests": importing})["unit_tests"]["given"]["test_utils.py"]
    assert data["unit_tests"]["given"] == {}
    data = read_code(QUIXBUGS)
    assert data["unit_tests"]["files"] == ["python_programs/gcd.py"]
    assert "[[4, 2], 2]" in data["unit_tests"]["given"]["load_testdata.py"]
    data = read_code(
        {"text": "Add.", "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "", "code": "def add(): 0"}
    )
    assert (data["question"], data["gold"], data["unit_tests"]["framework"]) == ("Add.", "def add(): 0", "asserts")


@pytest.mark.parametrize(
    ("record", "shown", "hidden"),
    [
        (HUMANEVAL, "def add(a, b):", "return a + b"),
        (EXERCISM, "def add(a, b):\n    pass", "TestCase"),
        (QUIXBUGS, "return a\n", "a % b"),
        ({"prompt": "Write add.", "test_list": ["assert add(1) == 3"], "code": "gold"}, "assert add(1) == 3", "gold"),
        ({"question": "Add.", "input_output": json.dumps({**CALLS, "fn_name": "solve"})}, "`solve`", "null"),
        (nemo(CASES), "Add.", "7"),
    ],
)  # fmt: skip
def test_prompts_show_the_task_and_not_its_answer(record: Mapping[str, Any], shown: str, hidden: str) -> None:
    environment = Code()
    row = Row("x", "code", "code", environment.read(record))
    (message,) = environment.messages(row)
    assert shown in message.get("content", "")
    assert hidden not in message.get("content", "")


@pytest.mark.parametrize(
    "change",
    [
        {"tests": []}, {"tests": None}, {"tests": "not JSON"}, {"tests": 3}, {"tests": ["1 2"]},
        {"tests": [{"input": "1"}]}, {"tests": [{"output": "1"}]}, {"tests": [{"input": 1, "output": "1"}]},
        {"tests": [{"input": "1", "output": 1}]}, {"tests": [{"input": "1", "output": []}]},
        {"tests": [{"input": "1", "output": ["1", 2]}]}, {"tests": {"inputs": ["1"], "outputs": []}},
        {"tests": {"inputs": "1", "outputs": "1"}}, {"tests": {"inputs": [[1]], "outputs": ["1"]}},
        {"tests": {"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}}, {"tests": {**CALLS, "fn_name": "f(); g"}},
        {"tests": {"inputs": ["1"], "outputs": [1], "fn_name": "f"}}, {"checker": "psychic"},
        {"language": "cobol"}, {"language": 3}, {"time_limit_s": 0}, {"time_limit_s": "2"}, {"time_limit_s": True},
        {"time_limit_s": float("nan")}, {"time_limit_s": 1e9}, {"memory_mib": -1}, {"memory_mib": 1e9},
        {"verifier_metadata": 3}, {"verifier_metadata": "{"}, {"reward_model": []},
    ],
)  # fmt: skip
def test_malformed_rows_are_data_errors(change: Mapping[str, Any]) -> None:
    with pytest.raises(DataError):
        read_code({"question": "Add.", "tests": TESTS, **change})


@pytest.mark.parametrize(
    "record",
    [
        {}, {"question": "Add."}, {"prompt": "Add.", "answer": "42"}, nemo(None), nemo({"inputs": [], "outputs": []}),
        nemo({"inputs": ["1"], "outputs": ["1", "2"]}), nemo({"inputs": ["1"], "outputs": [None]}), nemo("{"),
        {**nemo(CALLS), "language": "cpp"}, {**HUMANEVAL, "language": "cpp"},
        {**HUMANEVAL, "test": "assert add(1, 2) == 3"}, {**HUMANEVAL, "prompt": ""}, {**HUMANEVAL, "entry_point": None},
        {**EXERCISM, "tests": {}}, {**EXERCISM, "tests": {"../add_test.py": ""}},
        {**EXERCISM, "stub": {"add_test.py": ""}}, {**EXERCISM, "extra": ["add.py"]},
        {**EXERCISM, "stub": {"/etc/passwd": ""}}, {**EXERCISM, "tests": {"a.py": 3}},
        {**QUIXBUGS, "test": "def test(): pass"}, {**QUIXBUGS, "cases": 3}, {**QUIXBUGS, "buggy": ""},
        {"text": "Add.", "test_list": []}, {"text": "Add.", "test_list": "assert"}, {"text": "Add.", "test_list": [3]},
    ],
)  # fmt: skip
def test_other_malformed_rows_are_data_errors(record: Mapping[str, Any]) -> None:
    with pytest.raises(DataError):
        read_code(record)


def test_a_row_without_a_solution_has_no_gold() -> None:
    with pytest.raises(DataError, match="no solution"):
        Code().gold(Row("x", "code", "code", read_code({"question": "Add.", "tests": TESTS})))
