"""Runs a suite inside a room and prints what became of every test. Reads nothing of this project: it is sent as text.

Code that is tested here is a package with one small bug, which nobody made to deceive; so what it says is believed.
Grades of a policy's changes come from `cascade.environments.swe_grading` instead.
"""

from __future__ import annotations

import json
import os
import sys
from types import FrameType
from typing import Any

ORDER: dict[str, Any] = {}  # filled in where it is sent from
MARK = "\x1e"  # stands before the report
SHOWN = 4000  # characters of a message


class Lines:
    """The lines of the repository's own files that are run, as path -> numbers."""

    def __init__(self, root: str) -> None:
        self.found: dict[str, set[int]] = {}
        self._root = root + "/"

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(self._root):
            return None
        lines = self.found.setdefault(path[len(self._root) :], set())
        lines.add(frame.f_lineno)

        def follow(frame: FrameType, event: str, argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return follow

        return follow


class Reporter:
    """A plugin of pytest that keeps every outcome and how every failure reads."""

    def __init__(self, root: str) -> None:
        self.outcomes: dict[str, str] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self._root = root + "/"

    def pytest_runtest_logreport(self, report: Any) -> None:
        before = self.outcomes.get(report.nodeid)
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped or hasattr(report, "wasxfail"):
            self.outcomes[report.nodeid] = before or "skipped"
        elif report.when == "call":
            self.outcomes[report.nodeid] = before or "passed"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "failed"

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is None or item.nodeid in self.failures:
            return
        kind = call.excinfo.type
        if kind.__name__ not in ("Skipped", "XFailed", "Exit"):
            self.failures[item.nodeid] = {
                "error": kind.__name__,
                "message": str(call.excinfo.value)[:SHOWN],
                "place": self._place(call.excinfo.traceback),
                "parameters": _parameters(item),
            }

    def _place(self, traceback: Any) -> tuple[str, int] | None:
        """The file and the line, from 1, of the test function that the error came through."""
        for entry in traceback:
            path = str(entry.path)
            if path.startswith(self._root):
                return path[len(self._root) :], entry.lineno + 1
        return None


def _parameters(item: Any) -> dict[str, str]:
    found = getattr(getattr(item, "callspec", None), "params", {})
    return {str(name): repr(value)[:SHOWN] for name, value in found.items()}


def main() -> None:
    """Runs pytest with the arguments of the order and prints one JSON object behind the mark."""
    sys.dont_write_bytecode = True
    told = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    sys.path[:0] = ORDER["path"]
    import pytest

    reporter, lines = Reporter(ORDER["root"]), Lines(ORDER["root"])
    if ORDER["trace"]:
        sys.settrace(lines)
    code = int(pytest.main(ORDER["arguments"], plugins=[reporter]))
    sys.settrace(None)
    said = {"code": code, "outcomes": reporter.outcomes, "failures": reporter.failures}
    said["lines"] = {path: sorted(numbers) for path, numbers in lines.found.items()}
    with os.fdopen(told, "w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(MARK + json.dumps(said))
    os._exit(0)


if __name__ == "__main__":
    main()
