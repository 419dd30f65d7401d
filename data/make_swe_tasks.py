"""`python -m data.make_swe_tasks [--out DIR]`: SWE tasks from real packages, by seeded bugs in their syntax trees.

The method is SWE-smith's (Yang et al. 2025, arXiv:2504.21798): a package whose suite passes gets one bug at a time;
a bug that some tests notice is a task, its reverse the repair, and what the tests say the issue.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cascade.atomic import write_text
from cascade.errors import CascadeError, ConfigError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.ports import Sandbox
from data.sdists import downloaded_sdist, write_repository
from data.swe_candidates import candidates
from data.swe_issue import failures_of, issue_text
from data.swe_mutations import Mutation
from data.swe_packages import PACKAGES, Package, chosen
from data.swe_verdicts import Trials, Verdict, first_kept

OUT = Path(__file__).resolve().parent / "swe"
TASKS_PER_PACKAGE = 40
SPLITS = (("train", 80), ("validation", 10), ("test", 10))  # percent of the functions
SAID_EVERY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Makes the tasks; 0 when all are there, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.make_swe_tasks", description=__doc__)
    parser.add_argument("--packages", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(PACKAGES)}")
    parser.add_argument("--tasks-per-package", type=int, default=TASKS_PER_PACKAGE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="suites that run at once")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to write (default {OUT})")
    parser.add_argument(
        "--offline-cache", type=Path, help="folder with source distributions and verdicts (default OUT/cache)"
    )
    parser.add_argument("--sandbox", default="bwrap", help="back end that suites run in")
    asked = parser.parse_args(arguments)
    try:
        rows = tasks(
            asked.packages,
            asked.tasks_per_package,
            seed=asked.seed,
            workers=asked.workers,
            out=asked.out,
            offline_cache=asked.offline_cache,
            box=sandbox(asked.sandbox),
        )
    except CascadeError as error:
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        return 1
    found = Counter(row["split"] for row in rows)
    print(
        f"{asked.out / 'tasks.jsonl'}: {len(rows)} tasks, " + ", ".join(f"{found[name]} {name}" for name, _ in SPLITS)
    )
    return 0


def tasks(
    packages: Sequence[str | Package] = (),
    tasks_per_package: int = TASKS_PER_PACKAGE,
    *,
    seed: int = 0,
    workers: int = 1,
    out: Path = OUT,
    offline_cache: Path | None = None,
    box: Sandbox | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[dict[str, Any]]:
    """The rows of SWE tasks, also written: `tasks.jsonl`, a file a split, and a repository archive a package.

    The same packages, numbers and seed give the same bytes. What was downloaded and run before is not again.

    Args:
        packages: of `swe_packages.PACKAGES` by their names, or others; none: all of these.
        offline_cache: folder with `sdists` and `verdicts`; default: `cache` in `out`.
        say: told of progress.

    Raises:
        ConfigError: there is no such package or number.
        DataError: a source distribution cannot be had.
        SandboxError: the sandbox is not there, or fails.
    """
    if tasks_per_package < 1 or workers < 1:
        raise ConfigError(f"{tasks_per_package} tasks, {workers} workers.", "Give positive numbers.")
    cache = offline_cache or out / "cache"
    rows: list[dict[str, Any]] = []
    for package in chosen(packages):
        sdist = downloaded_sdist(f"{package.name}=={package.version}", package.sha256, cache / "sdists")
        rows += tasks_of(package, sdist, box or sandbox("bwrap"), tasks_per_package, seed, workers, out, cache, say)
    for name in ("tasks", *(name for name, _ in SPLITS)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows if name in ("tasks", row["split"])]
        write_text(out / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    return rows


def tasks_of(
    package: Package,
    sdist: Path,
    box: Sandbox,
    count: int,
    seed: int,
    workers: int,
    out: Path,
    cache: Path,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The first `count` bugs of a package that make tasks, as rows."""
    started = said = time.monotonic()
    archive = out / f"{package.title}.tar.gz"
    write_repository(sdist, archive)
    trials = Trials(box, package, archive, cache / "verdicts")
    say(f"{package.title}: {len(trials.baseline.stable)} tests pass in {trials.baseline.wall_s:.1f} s")
    bugs = candidates(trials.clean, trials.baseline.lines, f"{seed}/{package.title}")
    rows, words = [], Counter[str]()
    for bug, verdict in first_kept(bugs, trials.verdict, count, workers):
        words[verdict.word] += 1
        if verdict.word == "kept":
            rows.append(row_of(package, trials, bug, verdict, seed))
        if time.monotonic() - said > SAID_EVERY_S:
            said = time.monotonic()
            say(f"{package.title}: {len(rows)} of {count} tasks from {words.total()} bugs")
    others = ", ".join(f"{number} {word}" for word, number in sorted(words.items()) if word != "kept")
    seconds = time.monotonic() - started
    say(f"{package.title}: {len(rows)} tasks from {words.total()} bugs ({others or 'all kept'}), {seconds:.0f} s")
    return rows


def row_of(package: Package, trials: Trials, bug: Mutation, verdict: Verdict, seed: int) -> dict[str, Any]:
    """A row in SWE-bench's columns and ours: `setup_patch` makes the bug, `patch` takes it back."""
    name = f"{package.name}__{package.version}.{bug.hash}"
    failures = failures_of(verdict.failed, verdict.failures or {})

    def read(path: str) -> str:
        return (trials.clean.read(path) or b"").decode()

    passing = sorted({*trials.baseline.stable} - {*verdict.failed})
    return {
        "instance_id": name,
        "repo": package.home,
        "base_commit": package.sha256,
        "version": package.version,
        "problem_statement": issue_text(package, failures, read, random.Random(f"{seed}/{name}")),
        "patch": bug.repair,
        "test_patch": "",
        "FAIL_TO_PASS": sorted(verdict.failed),
        "PASS_TO_PASS": passing,
        "repository": f"{package.title}.tar.gz",
        "setup_patch": bug.bug,
        "test_command": ["python", "-m", "pytest", *package.options, *package.tests],
        "test_files": sorted({test.split("::")[0] for test in trials.baseline.stable}),
        "split": split_of(f"{package.name}/{bug.path}::{bug.unit}"),
        "kind": bug.kind,
        "function": f"{bug.path}::{bug.unit}",
        "licence": package.licence,
    }


def split_of(function: str) -> str:
    """The split that all bugs of a function are in, whatever the seed."""
    place = int(hashlib.sha256(function.encode()).hexdigest(), 16) % 100
    for name, percent in SPLITS:
        if place < percent:
            return name
        place -= percent
    raise AssertionError("the shares are not a hundred percent")


if __name__ == "__main__":
    sys.exit(main())
