"""Which bugs make tasks: those that some tests of the clean suite notice, and most do not."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cascade.atomic import write_text
from cascade.environments.swe_grading import Bench
from cascade.environments.swe_repository import Prepared, base_folder
from cascade.environments.swe_rows import SweTask
from cascade.errors import DataError
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from data.swe_mutations import Mutation
from data.swe_packages import Package
from data.swe_suite import LIMITS, Failure, SuiteRun, run_suite

FORM = 2  # of what is kept in the cache: another one is not read
MOST = 0.5  # share of the tests that a bug may fail
SLOWER = 4.0  # than the clean suite may a suite with a bug be, before it counts as endless
SHORTEST_S = 10.0
PATIENCE = 3.0  # times longer, where it was the machine that was slow, or is known to end

Word = Literal["kept", "unnoticed", "endless", "all_fail", "most_fail", "other_tests", "unconfirmed"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The clean suite: tests that pass in every run, lines that they run, seconds that it takes."""

    stable: tuple[str, ...]
    lines: Mapping[str, frozenset[int]]
    wall_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the suite says of a bug; `failed` and how, where it is kept."""

    word: Word
    failed: tuple[str, ...] = ()
    failures: Mapping[str, Failure] | None = None


class Trials:
    """The suite of one package, run clean and with bugs. What a run said is kept, and not asked for again.

    Args:
        archive: the package's repository.
        cache: folder for what runs said.
    """

    def __init__(self, box: Sandbox, package: Package, archive: Path, cache: Path) -> None:
        self.package = package
        self.clean = Prepared(base_folder(archive.absolute()))
        self._box = box
        self._archive = archive.absolute()
        self._cache = cache
        self.baseline = self._baseline()

    def verdict(self, bug: Mutation) -> Verdict:
        """Kept when two runs agree on which tests fail: one as the suite runs, and one as a grader runs it.

        The hash seeds of the two are not the same, so that a bug which only shows in one order of a set is no task.
        """
        known = self._kept(
            f"{self.package.title}-{bug.hash}-{self._key(bug.bug, *self.baseline.stable)}", self._try, bug
        )
        failures = {name: _failure(each) for name, each in (known["failures"] or {}).items()}
        return Verdict(known["word"], tuple(known["failed"]), failures)

    def _try(self, bug: Mutation) -> dict[str, Any]:
        prepared = Prepared(self.clean.folder, {bug.path: bug.wrong.encode()})
        limit = max(SHORTEST_S, SLOWER * self.baseline.wall_s)
        run = run_suite(self._box, self.package, prepared, time_s=limit)
        if run.starved:
            run = run_suite(self._box, self.package, prepared, time_s=PATIENCE * limit)
        found = judged(run, self.baseline.stable)
        if found.word == "kept" and not self._confirmed(prepared, found.failed, PATIENCE * limit):
            found = Verdict("unconfirmed")
        return asdict(found)

    def _baseline(self) -> Baseline:
        known = self._kept(f"{self.package.title}-clean-{self._key()}", self._run_clean)
        lines = {path: frozenset(numbers) for path, numbers in known["lines"].items()}
        if not known["stable"]:
            raise DataError(f"No test of {self.package.title} passes here.", "Run its suite by hand and see why.")
        return Baseline(tuple(known["stable"]), lines, known["wall_s"])

    def _run_clean(self) -> dict[str, Any]:
        """Runs as the suite runs, of which one is traced, and as a grader runs it; see `stable_tests`."""
        runs = [run_suite(self._box, self.package, self.clean, trace=seed == 1, hash_seed=seed) for seed in (1, 2, 3)]
        tests = stable_tests([run.outcomes for run in runs], [])
        passed = [self._graded(self.clean, tests, LIMITS.time_s) for _ in range(2)] if tests else []
        lines = {path: sorted(numbers) for path, numbers in runs[0].lines.items()}
        stable = stable_tests([run.outcomes for run in runs], passed)
        return {"stable": list(stable), "lines": lines, "wall_s": max(run.wall_s for run in runs[1:])}

    def _confirmed(self, prepared: Prepared, failed: tuple[str, ...], limit_s: float) -> bool:
        passed = self._graded(prepared, self.baseline.stable, limit_s)
        return passed == {*self.baseline.stable} - {*failed}

    def _graded(self, prepared: Prepared, tests: tuple[str, ...], limit_s: float) -> frozenset[str]:
        task = SweTask(instance_id="trial", problem_statement="", fail_to_pass=tests, repository=str(self._archive))
        limits = Limits(**{**asdict(LIMITS), "time_s": limit_s})
        return Bench(self._box, task, prepared, limits).run({}).passed

    def _key(self, *more: str) -> str:
        """Whatever decides what a run says."""
        package = (self.package.sha256, *self.package.options, *self.package.tests)
        here = (str(FORM), sys.version.split()[0], version("pytest"))
        return hashlib.sha256("\0".join((*here, *package, *more)).encode()).hexdigest()[:16]

    def _kept(self, name: str, make: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
        path = self._cache / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make(*given)))
        return json.loads(path.read_text(encoding="utf-8"))


def stable_tests(runs: Sequence[Mapping[str, str]], graded: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """Tests that pass in every run, sorted, without those of a function whose parameters change from run to run.

    Before Python 3.12 `hash(None)` does, and with it the order of sets, and with that the numbers in node ids.

    Args:
        runs: the outcome of every test of a run.
        graded: what passed where a grader ran the tests that passed in all of these.
    """
    passed = frozenset.intersection(*(frozenset(n for n, word in run.items() if word == "passed") for run in runs))
    seen = {name for run in runs for name in run}
    restless = {name for name in seen if any(name not in run for run in runs)}
    restless |= {name for name in passed for tests in graded if "[" in name and name not in tests}
    functions = {name.split("[")[0] for name in restless}
    stable = passed.intersection(*graded)
    return tuple(sorted(name for name in stable if name.split("[")[0] not in functions))


def judged(run: SuiteRun, stable: tuple[str, ...]) -> Verdict:
    """What a run of the suite with a bug says, of the tests that pass without it."""
    if run.status == "ended":
        return Verdict("endless")
    if not run.outcomes.keys() >= {*stable}:
        return Verdict("other_tests")  # e.g. a module that cannot be imported
    failed = tuple(name for name in stable if name not in run.passed)
    if not failed:
        return Verdict("unnoticed")
    if len(failed) > MOST * len(stable):
        return Verdict("all_fail" if len(failed) == len(stable) else "most_fail")
    return Verdict("kept", failed, {name: run.failures[name] for name in failed if name in run.failures})


def _failure(each: Mapping[str, Any]) -> Failure:
    place = each["place"]
    return Failure(each["error"], each["message"], (place[0], place[1]) if place else None, each["parameters"])


def first_kept(
    bugs: Iterator[Mutation], ask: Callable[[Mutation], Verdict], count: int, workers: int
) -> Iterator[tuple[Mutation, Verdict]]:
    """Each bug with its verdict, in the order of the bugs, until `count` are kept; none is asked about in vain."""
    waiting: deque[tuple[Mutation, Future[Verdict]]] = deque()
    kept = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            while kept < count:
                ahead = min(workers + 1, count - kept) - len(waiting)
                waiting += [(bug, pool.submit(ask, bug)) for bug in islice(bugs, ahead)]
                if not waiting:
                    return
                bug, answer = waiting.popleft()
                verdict = answer.result()
                kept += verdict.word == "kept"
                yield bug, verdict
        finally:
            for _, answer in waiting:
                answer.cancel()
