"""Real exercises and functions, judged by their own tests: right solutions pass, and wrong ones do not.

Needs the folders `exercism`, `humaneval` and `quixbugs` in CASCADE_DATA.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.exercism_files import FILE_LIKE
from cascade.environments.quixbugs_files import beside
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.unit_tests import Judge, TestReport, check_function, test_files

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data"))
LIMITS = Limits(time_s=20, memory_mib=256)

REACHES_IN = {"paasio"}
"""Its tests replace `super` in the program by an object that looks for the program's frames on its own stack."""
RIGHT_STUBS = {"ledger", "markdown"}
"""Exercises in tidying up: the stub is a program that passes."""


def rows(path: str) -> list[dict[str, Any]]:
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not in {DATA}: set CASCADE_DATA.")
    with gzip.open(DATA / path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(sandbox("bwrap")) as opened:
        yield opened


def passed(reports: Mapping[str, TestReport]) -> set[str]:
    return {name for name, report in reports.items() if report.verdict == "passed"}


def all_of(judged: Any, records: list[dict[str, Any]]) -> dict[str, TestReport]:
    """Reports by name, two at once."""
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(judged, records))


@pytest.mark.parametrize("kind", ["reference", "stub"])
def test_exercism_references_pass_and_stubs_do_not(judge: Judge, kind: str) -> None:
    def judged(record: dict[str, Any]) -> tuple[str, TestReport]:
        name = record["task_id"].partition("/")[2]
        given = {"test_utils.py": FILE_LIKE} if name == "error-handling" else {}
        return name, judge.judge({**record[kind], **record["extra"]}, test_files({**given, **record["tests"]}), LIMITS)

    reports = all_of(judged, rows("exercism/practice.jsonl.gz"))
    assert len(reports) == 140
    if kind == "reference":
        assert reports.keys() - passed(reports) == REACHES_IN
        assert {name: report.passed for name, report in reports.items() if name in REACHES_IN} == {"paasio": 13}
    else:
        assert passed(reports) == RIGHT_STUBS


def test_the_exercise_that_reaches_into_its_program_is_judged_in_one_process_when_asked(judge: Judge) -> None:
    (record,) = [each for each in rows("exercism/practice.jsonl.gz") if each["task_id"] == "exercism/paasio"]
    tests = test_files(record["tests"], in_one_process=True)
    assert judge.judge(record["reference"], tests, LIMITS).verdict == "passed"
    assert judge.judge(record["stub"], tests, LIMITS).passed == 0


def test_humaneval_solutions_pass_and_empty_ones_do_not(judge: Judge) -> None:
    def judged(record: dict[str, Any]) -> tuple[str, TestReport]:
        tests = check_function(record["test"], record["entry_point"], setup=record["prompt"])
        body = record["canonical_solution"] if record["right"] else "    return None\n"
        name = f"{record['task_id']} {record['right']}"
        return name, judge.judge({"solution.py": record["prompt"] + body}, tests, LIMITS)

    records = rows("humaneval/HumanEval.jsonl.gz")
    tried = [{**record, "right": True} for record in records] + [{**record, "right": False} for record in records[::4]]
    reports = all_of(judged, tried)
    assert len(records) == 164
    assert passed(reports) == {name for name in reports if name.endswith("True")}


def test_quixbugs_programs_pass_when_fixed_and_fail_with_their_bug(judge: Judge) -> None:
    def judged(record: dict[str, Any]) -> tuple[str, TestReport]:
        name = record["task_id"].partition("/")[2]
        tests = test_files({f"test_{name}.py": record["test"], **beside(record["cases"] or "")}, "pytest")
        time_s = 20 if record["kind"] == "fixed" else 2
        files = {f"python_programs/{name}.py": record[record["kind"]]}
        return f"{name} {record['kind']}", judge.judge(files, tests, Limits(time_s=time_s, memory_mib=256))

    records = rows("quixbugs/programs.jsonl.gz")
    reports = all_of(judged, [{**record, "kind": kind} for record in records for kind in ("fixed", "buggy")])
    assert len(records) == 40
    assert passed(reports) == {name for name in reports if name.endswith("fixed")}
    assert sum(report.total for name, report in reports.items() if name.endswith("fixed")) > 250
