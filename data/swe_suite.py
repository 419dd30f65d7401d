"""A package's whole suite, run in a room of the sandbox, and what became of every test."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cascade.environments.swe_repository import Prepared
from cascade.environments.swe_room import REPOSITORY, furniture, python_path, write
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from data.swe_packages import Package
from data.swe_suite_inside import MARK

LIMITS = Limits(time_s=120.0, memory_mib=1024, disk_mib=64, processes=64, output_kib=32 << 10)
INSIDE = Path(__file__).with_name("swe_suite_inside.py")
ARGUMENTS = [
    "-vv",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "--continue-on-collection-errors",
    f"--rootdir={REPOSITORY}",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """How a test failed, e.g. `Failure("AssertionError", "assert 3 == 2", ("tests/test_a.py", 9), {"n": "2"})`."""

    error: str  # name of the exception
    message: str
    place: tuple[str, int] | None  # file and line, from 1, of the statement of the test
    parameters: Mapping[str, str] = field(default_factory=dict)  # of a parametrised test: name -> repr


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """What became of a suite. A suite that was ended, or ended itself, has no outcomes."""

    status: Literal["ok", "ended"]
    outcomes: Mapping[str, str] = field(default_factory=dict)  # node id -> passed, failed or skipped
    failures: Mapping[str, Failure] = field(default_factory=dict)
    lines: Mapping[str, frozenset[int]] = field(default_factory=dict)  # file -> lines that were run
    wall_s: float = 0.0
    starved: bool = False  # ended at its time limit on a machine with no free core

    @property
    def passed(self) -> frozenset[str]:
        return frozenset(name for name, outcome in self.outcomes.items() if outcome == "passed")


def run_suite(
    box: Sandbox,
    package: Package,
    prepared: Prepared,
    *,
    time_s: float = LIMITS.time_s,
    trace: bool = False,
    hash_seed: int = 1,
) -> SuiteRun:
    """Runs every test of a package in a fresh room.

    Rooms have hash seed 0. Another one here shows what depends on it, e.g. on the order of a set of texts.

    Args:
        prepared: the repository, with the bug in its `changes`.
        time_s: wall clock of the whole suite.
        trace: also tells which lines of the repository are run.

    Raises:
        SandboxError: the sandbox has failed, and not the suite.
    """
    order = {
        "root": REPOSITORY,
        "path": python_path(prepared),
        "trace": trace,
        "arguments": [*ARGUMENTS, "-o", f"addopts={shlex.join(package.options)}", *package.tests],
    }
    program = INSIDE.read_text(encoding="utf-8").replace("= {}  # filled in", f"= {order!r}  # filled in", 1)
    shown = furniture(prepared)
    variables = {**shown.variables, "PYTHONHASHSEED": str(hash_seed)}
    with box.open(LIMITS, replace(shown, variables=variables)) as room:
        write(room, dict(prepared.changes))
        outcome = room.run(("python", "-"), program.encode(), time_s=time_s, folder=REPOSITORY)
    said = outcome.stdout.decode(errors="replace").rpartition(MARK)[2]
    if outcome.status != "ok" or not said:
        return SuiteRun("ended", wall_s=outcome.wall_s, starved=outcome.starved)
    return _read(json.loads(said), outcome.wall_s)


def _read(said: dict[str, Any], wall_s: float) -> SuiteRun:
    failures = {
        name: Failure(
            each["error"],
            each["message"],
            tuple(each["place"]) if each["place"] else None,
            each["parameters"],
        )
        for name, each in said["failures"].items()
    }
    lines = {path: frozenset(numbers) for path, numbers in said["lines"].items()}
    return SuiteRun("ok", said["outcomes"], failures, lines, wall_s)
