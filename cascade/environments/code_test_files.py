"""Rows whose tests are files of Python: HumanEval, MBPP, exercism, QuixBugs, and tests in pytest's form.

`unit_tests` of a row has `framework` (check, asserts, unittest or pytest), `tests` (path -> text), `given` (path ->
text: what tests import besides the program), `files` (what the answer is to fill, in order), `beside` (path -> text:
what lies beside the program) and, for check, `entry_point` and `setup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from cascade.environments.code_answer import fenced, preamble_of
from cascade.environments.exercism_files import lacking
from cascade.environments.quixbugs_files import MODULE, beside
from cascade.errors import DataError

FILE = "solution.py"
_IMPORTED = re.compile(r"^\s*from[ \t]+([A-Za-z_]\w*)[ \t]+import\b", re.MULTILINE)


def humaneval(record: Mapping[str, Any]) -> dict[str, Any]:
    """A function to complete: `prompt`, `entry_point`, `test` with a function `check(candidate)`."""
    prompt, entry_point, test = (_needed(record, key) for key in ("prompt", "entry_point", "test"))
    if not re.search(r"^def check\b", test, re.MULTILINE):
        raise DataError("`test` has no function `check`.", "Give one that takes the candidate.")
    data = {"prompt": prompt, "entry_point": entry_point}
    unit_tests = {"framework": "check", "tests": {"check.py": test}, "files": [FILE], "entry_point": entry_point}
    unit_tests["setup"] = preamble_of(prompt, entry_point)  # helpers that tests use as well
    body = record.get("canonical_solution")
    return {**data, "unit_tests": unit_tests, **({"gold": prompt + body} if isinstance(body, str) else {})}


def mbpp(record: Mapping[str, Any]) -> dict[str, Any]:
    """A task in words and asserts: `text` or `prompt`, `test_list`, `test_setup_code` or `test_imports`."""
    asserts = record["test_list"]
    if not isinstance(asserts, list) or not asserts or not all(isinstance(line, str) for line in asserts):
        raise DataError("`test_list` is not a list of asserts.", "Give Python text.")
    setup = [record.get("test_setup_code"), *(record.get("test_imports") or [])]
    before = [line for line in setup if isinstance(line, str) and line.strip()]
    words = record.get("text", record.get("prompt"))
    data: dict[str, Any] = {"question": words} if isinstance(words, str) else {}
    unit_tests = {"framework": "asserts", "tests": {"asserts.py": asserts}, "setup": "\n".join(before), "files": [FILE]}
    return {**data, "unit_tests": unit_tests}


def exercism(record: Mapping[str, Any]) -> dict[str, Any]:
    """An exercise: `stub`, `reference`, `tests` and `extra`, each a map from file to text."""
    stub, reference, tests, extra = (_files(record, key) for key in ("stub", "reference", "tests", "extra"))
    if not tests or not stub:
        raise DataError("The exercise has no tests or no stub.", "Give both.")
    files = list(stub)
    if clash := next((name for name in files if name in tests or name in extra), None):
        raise DataError(f"{clash} is both to be written and given.", "Give it once.")
    unit_tests = {
        "framework": _framework(tests.values()),
        "tests": tests,
        "given": {**extra, **lacking(tests.values(), (*tests, *extra))},
        "beside": extra,
        "files": files,
    }
    data: dict[str, Any] = {"stub": stub, "unit_tests": unit_tests}
    if reference:
        data["gold"] = _as_answer(reference, files)
    return data


def quixbugs(record: Mapping[str, Any]) -> dict[str, Any]:
    """A function with a bug: `buggy`, `fixed`, `test`, and `cases`, a JSON line each."""
    buggy, test = _needed(record, "buggy"), _needed(record, "test")
    found = MODULE.search(test)
    if not found:
        raise DataError("`test` imports no program of QuixBugs.", "Give its test file.")
    name, cases = found[1], record.get("cases")
    if cases is not None and not isinstance(cases, str):
        raise DataError(f"`cases` is {type(cases).__name__}.", "Give JSON lines, or leave it out.")
    file = f"python_programs/{name}.py"
    tests = {f"test_{name}.py": test}
    unit_tests = {"framework": "pytest", "tests": tests, "given": beside(cases or ""), "files": [file]}
    fixed = record.get("fixed")
    return {"buggy": buggy, "unit_tests": unit_tests, **({"gold": fixed} if isinstance(fixed, str) else {})}


def pytest_file(record: Mapping[str, Any]) -> dict[str, Any]:
    """Tests that import what they test from a module, `solution` by default: `test`, of pytest or unittest."""
    test = _needed(record, "test")
    modules = _IMPORTED.findall(test)
    file = FILE if "solution" in modules or not modules else f"{modules[0]}.py"
    return {"unit_tests": {"framework": _framework([test]), "tests": {"test_it.py": test}, "files": [file]}}


def _framework(texts: Iterable[str]) -> str:
    return "unittest" if any(re.search(r"\bTestCase\b", text) for text in texts) else "pytest"


def _as_answer(files: Mapping[str, str], order: Sequence[str]) -> str:
    if len(files) == 1:
        return fenced(next(iter(files.values())))
    ordered = sorted(files, key=lambda name: order.index(name) if name in order else len(order))
    return "\n\n".join(fenced(files[name], name=name) for name in ordered)


def _files(record: Mapping[str, Any], key: str) -> dict[str, str]:
    found = record.get(key) or {}
    if not isinstance(found, Mapping):
        raise DataError(f"`{key}` is {type(found).__name__}.", "Give a map from file to text.")
    for path, text in found.items():
        parts = PurePosixPath(path)
        if not isinstance(text, str) or parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise DataError(f"`{key}` has {path!r:.60}.", "Give relative paths, and their texts.")
    return dict(found)


def _needed(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"The row has no `{key}`.", "Give its text.")
    return value
