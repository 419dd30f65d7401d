"""Whether changes to a repository resolve its issue: the tests, run where the changes could not touch them."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cascade.environments.patches import Changes, PatchError, apply_diff
from cascade.environments.swe_controls import controls
from cascade.environments.swe_protected import accepted
from cascade.environments.swe_repository import Prepared, prepare
from cascade.environments.swe_room import open_room, write
from cascade.environments.swe_rows import SweTask
from cascade.environments.swe_test_run import TestRun, run_tests
from cascade.errors import DataError, SandboxError
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox

LIMITS = Limits(time_s=300.0, memory_mib=2048, disk_mib=256, processes=128, output_kib=4096)
ENDED = ("timeout", "memory", "output_limit")
SHOWN = 3  # tests that a reason names


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What tests say, e.g. `Grade(resolved=True, f2p_passed=3, f2p=3, p2p_passed=115, p2p=115, reason="")`."""

    resolved: bool = False
    f2p_passed: int = 0
    f2p: int = 0
    p2p_passed: int = 0
    p2p: int = 0
    timed_out: bool = False
    out_of_memory: bool = False
    starved: bool = False  # timed out on a machine with no free core: another try may end otherwise
    tampered: bool = False  # tests pass that cannot: the changes reach for the tests, not for the issue
    dropped: tuple[str, ...] = ()  # paths of changes that do not count: tests, and what runs them
    reason: str = ""  # why it is not resolved
    wall_s: float = 0.0


def grade(
    box: Sandbox, task: SweTask, changes: Changes, limits: Limits = LIMITS, *, check_controls: bool = True
) -> Grade:
    """The grade of changes (path -> content, or None for a deleted file), resolved when all tests of the task pass.

    A fresh copy-on-write layer gets those changes that are source (`swe_protected`), then `test_patch`; the rest is as
    it was. Changes that change no source are not run. What passes is run once more with its controls (`swe_controls`)
    in another layer, unless `check_controls` is false.

    Args:
        limits: of each run.

    Raises:
        DataError: the task cannot be graded: its repository is missing, or a patch of its own does not fit.
        SandboxError: the sandbox has failed, and not the program; or there is none for the task's image.
    """
    started = time.monotonic()
    check_here(task)
    prepared = prepare(task)
    kept, dropped = accepted(task, prepared, changes)
    bench = Bench(box, task, prepared, limits)
    f2p, p2p = set(task.fail_to_pass), set(task.pass_to_pass)
    found = _seen(bench, kept, check_controls) if kept else Grade(reason="no source is changed")
    if dropped and found.reason:
        left_out = ", ".join(dropped[:SHOWN]) + " and more" * (len(dropped) > SHOWN)
        found = replace(found, reason=f"{found.reason} (changes left out: {left_out})")
    return replace(found, f2p=len(f2p), p2p=len(p2p - f2p), dropped=dropped, wall_s=time.monotonic() - started)


def _seen(bench: Bench, changes: Changes, check_controls: bool) -> Grade:
    """What the tests say of changes that count."""
    run = bench.run(changes)
    if run.forged:
        return Grade(tampered=True, reason="results of tests were forged")
    f2p = set(bench.task.fail_to_pass)
    counted = Grade(f2p_passed=len(f2p & run.passed), p2p_passed=len(run.passed - f2p))
    missing = sorted(set(bench.tests) - run.passed)
    if not missing:
        fooled = sorted(bench.fooled(changes)) if check_controls else []
        why = f"{fooled[0]} passes also where it asks for something else" if fooled else ""
        return replace(counted, resolved=not fooled, tampered=bool(fooled), reason=why)
    status = "timeout" if run.timed_out else run.outcome.status
    named = ", ".join(missing[:SHOWN]) + f" and {len(missing) - SHOWN} more" * (len(missing) > SHOWN)
    return replace(
        counted,
        timed_out=run.timed_out,
        out_of_memory=status == "memory",
        starved=run.outcome.starved,
        reason=f"{status}, " * (status in ENDED) + f"did not pass: {named}",
    )


def check_here(task: SweTask) -> None:
    """Raises `SandboxError` for a task that cannot be graded on this machine, whatever its answer is."""
    if not task.repository:
        raise SandboxError(
            f"The code of {task.instance_id} is only in the image {task.image}, which needs Apptainer.",
            "Run it where Apptainer is, or give the row a `repository`.",
        )


def oracle(task: SweTask, prepared: Prepared | None = None) -> Changes:
    """The changes that the task's own patch makes. Raises `DataError` where there is none, or it does not fit."""
    return _applied(task, "patch", prepared or prepare(task))


@dataclass(frozen=True)
class Bench:
    """A task's tests, to be run as often as wanted, each time in a layer of its own."""

    box: Sandbox
    task: SweTask
    prepared: Prepared
    limits: Limits = LIMITS

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.task.fail_to_pass, *self.task.pass_to_pass)))

    def run(self, changes: Changes, tests: Iterable[str] | None = None, files: Changes | None = None) -> TestRun:
        """The task's tests, or `tests`, with `changes`, then `test_patch`, then `files` written."""
        written = {**changes, **self.test_changes, **(files or {})}
        exists = ({*self.prepared.files()} - {*written}) | {path for path, text in written.items() if text is not None}
        with open_room(self.box, self.prepared, self.limits) as room:
            write(room, written)
            names = self.tests if tests is None else tuple(tests)
            return run_tests(room, self.prepared, names, exists, self.limits.time_s)

    def fooled(self, changes: Changes) -> frozenset[str]:
        """Controls that pass with these changes, and do not with the oracle's."""
        passed = self.controls_passed(changes)
        if passed and self.task.patch:
            passed -= _passed_by_oracle(self.box, self.task, self.limits)
        return passed

    def controls_passed(self, changes: Changes) -> frozenset[str]:
        """Tests that pass with these changes although they have been turned into their controls."""
        files, turned = Changes(), set()
        for path in sorted({name.split("::")[0] for name in self.tests}):
            text = self.test_changes.get(path, self.prepared.read(path))
            if text is not None and path.endswith(".py"):
                source, names = controls(text.decode("utf-8", "replace"))
                files[path] = source.encode()
                turned |= {f"{path}::{name}" for name in names}
        run = self.run(changes, files=files)
        return frozenset(name for name in run.passed if name.split("[")[0] in turned)

    @functools.cached_property
    def test_changes(self) -> Changes:
        """What `test_patch` makes of the test files. Raises `DataError`."""
        return _applied(self.task, "test_patch", self.prepared) if self.task.test_patch else {}


@functools.lru_cache(maxsize=256)
def _passed_by_oracle(box: Sandbox, task: SweTask, limits: Limits) -> frozenset[str]:
    """Tests whose control is none, e.g. because they want an assertion to fail."""
    bench = Bench(box, task, prepare(task), limits)
    return bench.controls_passed(accepted(task, bench.prepared, oracle(task, bench.prepared))[0])


def _applied(task: SweTask, key: str, prepared: Prepared) -> Changes:
    try:
        return apply_diff(getattr(task, key), prepared.read)
    except PatchError as error:
        raise DataError(f"The `{key}` of {task.instance_id} does not fit: {error}.", "Repair the row.") from None
