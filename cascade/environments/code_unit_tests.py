"""From test files of a row to a tally: the program and its tests run in two rooms, see `cascade.sandbox.unit_tests`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cascade.environments.code_rooms import steady
from cascade.environments.code_tests import Tally
from cascade.errors import ConfigError, FailureKind, VerifierFailure
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.unit_tests import TestReport, Tests, assertions, check_function, judge, test_files


def tally_files(box: Sandbox, told: Mapping[str, Any], files: Mapping[str, str], limits: Limits) -> Tally:
    """Runs all tests of a row in one run, which `limits` are for.

    Raises `VerifierFailure` where the row has no test that can be run or the machine has no core, `SandboxError`.
    """
    tests, reports = _tests(told), []

    def run(time_s: float) -> Outcome:
        report = judge(box, {**told.get("beside", {}), **files}, tests, replace(limits, time_s=time_s))
        reports.append(report)
        return replace(report.program, wall_s=report.wall_s, starved=report.starved)

    return _tally(reports, steady(run, limits.time_s))


def _tally(reports: list[TestReport], outcome: Outcome) -> Tally:
    report = reports[-1]
    found = Tally(report.total)
    found.spent(outcome)
    found.passed = report.passed if report.verdict == "passed" else min(report.passed, report.total - 1)
    if outcome.status in ("timeout", "memory", "output_limit", "killed"):
        found.passed = min(found.passed, report.total - 1)
        found.reasons[outcome.status] = 1
    elif report.verdict != "passed":
        found.compiled = "SyntaxError" not in report.reason and "IndentationError" not in report.reason
        found.reasons["wrong" if found.compiled else "runtime_error"] = report.total - found.passed
    return found


def _tests(told: Mapping[str, Any]) -> Tests:
    """What the row tells in the terms of the sandbox."""
    tests, framework = told["tests"], told["framework"]
    try:
        if framework == "check":
            (source,) = tests.values()
            return check_function(source, told["entry_point"], setup=told.get("setup", ""))
        if framework == "asserts":
            (lines,) = tests.values()
            return assertions(lines, setup=told.get("setup", ""))
        return test_files({**told.get("given", {}), **tests}, framework)
    except ConfigError as error:
        raise VerifierFailure(FailureKind.DATA, str(error)) from None
