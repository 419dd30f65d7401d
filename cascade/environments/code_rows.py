"""Rows of programming tasks in the forms that people have them, read into one.

What becomes of a record, besides its question, prompt, limits, checker and gold answer, is one of

- `tests`: inputs and outputs of a whole program, as text, which LiveCodeBench runs with a `prelude`;
- `calls`: arguments and values of one function, `function`;
- `unit_tests`: files of tests in Python, which are run beside the program, see `code_test_files`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from cascade.environments.code_cases import FUNCTIONS, call_of, decoded, pairs_of, test_of, text_of
from cascade.environments.code_checkers import LANGUAGES, checker_of
from cascade.environments.code_livecodebench import unpacked
from cascade.environments.code_test_files import exercism, humaneval, mbpp, pytest_file, quixbugs
from cascade.errors import DataError

QUESTIONS = ("question", "problem", "description", "statement", "question_content", "instruction")
SOLUTIONS = ("solution", "reference", "canonical_solution", "reference_solution", "solutions", "gold", "code")
MAX_TIME_S, MAX_MEMORY_MIB = 600.0, 65_536

CODE_CONTESTS = ("public_tests", "private_tests", "generated_tests")
CODE_CONTESTS_LANGUAGES = {3: "python", 2: "cpp"}  # of its solutions, in the order that gold answers are taken
CODE_CONTESTS_CHECKER = {"kind": "float", "abs": 1e-5, "ignore_case": True}  # its own rule
LIVE_CODE_BENCH = ("public_test_cases", "private_test_cases")
LIVE_CODE_BENCH_CHECKER = {"kind": "decimals"}


def read_code(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as `Row.data`, without its prompt. Raises `DataError` for a malformed one."""
    for is_meant, reader in _FILE_FORMS:
        if is_meant(record):
            data = reader(record)
            break
    else:
        data = _with_tests(record)
    if "question" not in data and (question := text_of(record, QUESTIONS)):
        data["question"] = question
    if isinstance(record.get("starter_code"), str) and record["starter_code"].strip():
        data["starter_code"] = record["starter_code"]
    data.update(_language(record), **_limits(record))
    if data.get("language") == "cpp" and "tests" not in data:
        raise DataError("Functions and files are tested in Python.", "Give inputs and outputs for a program in C++.")
    if "gold" not in data and (gold := _gold(record, data.get("language"))):
        data["gold"] = gold
    return data


def _with_tests(record: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with inputs and outputs."""
    cases, default, function = _cases_of(record)
    if not cases:
        raise DataError("The row has no tests.", "Give `tests`, a list of objects with `input` and `output`.")
    function = text_of(record, FUNCTIONS[:3]) or text_of(_metadata(record), FUNCTIONS) or function
    checker = checker_of(record.get("checker", _verifier(record).get("checker")), default)
    if function:
        if not function.replace(".", "_").isidentifier():
            raise DataError(f"The function is called {function!r:.60}.", "Give the name of a function.")
        data: dict[str, Any] = {"function": function, "calls": [call_of(case) for case in cases]}
    else:
        data = {"tests": [test_of(case) for case in cases]}
        if default is LIVE_CODE_BENCH_CHECKER:
            data["prelude"] = True  # its imports are there, and its depth of recursion
    return {**data, "checker": checker}


def _cases_of(record: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Mapping[str, Any], str]:
    """The tests of a record one by one, the checker its form implies, and the function's name where they have it."""
    ours: Mapping[str, Any] = {"kind": "lines"}
    if any(record.get(key) is not None for key in CODE_CONTESTS):
        found = [case for key in CODE_CONTESTS for case in pairs_of(record.get(key))[0]]
        return found, CODE_CONTESTS_CHECKER, ""
    if any(record.get(key) is not None for key in LIVE_CODE_BENCH):
        found = [case for key in LIVE_CODE_BENCH for case in pairs_of(unpacked(record.get(key)))[0]]
        return found, LIVE_CODE_BENCH_CHECKER, ""
    verifier = _verifier(record)
    info = _object(record.get("verification_info"), "verification_info")
    model = _object(record.get("reward_model"), "reward_model")
    places = (
        (verifier.get("unit_tests"), LIVE_CODE_BENCH_CHECKER),
        (record.get("unit_tests"), LIVE_CODE_BENCH_CHECKER),
        (record.get("input_output"), LIVE_CODE_BENCH_CHECKER),
        (info.get("test_cases"), LIVE_CODE_BENCH_CHECKER),
        (model.get("ground_truth"), LIVE_CODE_BENCH_CHECKER),
        (record.get("tests"), ours),
        (record.get("test_cases"), ours),
    )
    for told, checker in places:
        if told is not None:
            found, function = pairs_of(told)
            return found, checker, function
    return [], ours, ""


def _language(record: Mapping[str, Any]) -> dict[str, str]:
    told = record.get("language", _object(record.get("verification_info"), "verification_info").get("language"))
    if told is None:
        return {}
    if not isinstance(told, str) or told.strip().lower() not in LANGUAGES:
        raise DataError(f"The language is {told!r:.60}.", "Give python or cpp.")
    return {"language": LANGUAGES[told.strip().lower()]}


def _limits(record: Mapping[str, Any]) -> dict[str, float]:
    """`time_limit_s` and `memory_mib`. Limits of other units are their contests', and of other machines."""
    found = {}
    for key, most in (("time_limit_s", MAX_TIME_S), ("memory_mib", MAX_MEMORY_MIB)):
        value = record.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise DataError(f"`{key}` is {value!r:.40}.", f"Give a number above 0, at most {most:g}.")
        found[key] = float(value) if key == "time_limit_s" else max(1, math.ceil(value))
    return found


def _gold(record: Mapping[str, Any], language: str | None) -> str:
    """The text of a program that is right; empty where the row has none."""
    for key in SOLUTIONS:
        told = record.get(key)
        if isinstance(told, Mapping):
            return _code_contests_solution(told, language)
        if isinstance(told, str) and told.lstrip()[:1] == "[":
            with contextlib.suppress(ValueError):  # of a program that begins with a list
                told = json.loads(told)
        if isinstance(told, list):
            told = next((each for each in told if isinstance(each, str) and each.strip()), None)
        if isinstance(told, str) and told.strip():
            return told
    return ""


def _code_contests_solution(told: Mapping[str, Any], language: str | None) -> str:
    languages, texts = told.get("language"), told.get("solution")
    if isinstance(languages, list) and isinstance(texts, list):
        for number, name in CODE_CONTESTS_LANGUAGES.items():
            for one, text in zip(languages, texts, strict=False):
                if one == number and language in (None, name) and isinstance(text, str):
                    return text
    return ""


def _verifier(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(record.get("verifier_metadata"), "verifier_metadata")


def _metadata(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """LiveCodeBench's `metadata`, which holds the name of a function."""
    told = record.get("metadata")
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return {}
    return told if isinstance(told, Mapping) else {}


def _object(told: Any, name: str) -> Mapping[str, Any]:
    told = decoded(told, f"`{name}`")
    if told is not None and not isinstance(told, Mapping):
        raise DataError(f"`{name}` is {type(told).__name__}.", "Give an object.")
    return told or {}


Reader = Callable[[Mapping[str, Any]], dict[str, Any]]
_FILE_FORMS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Reader], ...] = (
    (lambda record: "buggy" in record and "test" in record, quixbugs),
    (lambda record: isinstance(record.get("tests"), Mapping) and "stub" in record, exercism),
    (lambda record: "entry_point" in record and "test" in record, humaneval),
    (lambda record: "test_list" in record, mbpp),
    (lambda record: isinstance(record.get("test"), str) and "tests" not in record, pytest_file),
)
