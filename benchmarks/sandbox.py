"""Measures the sandbox: programs and test cases a second, beside the same programs without one.

    python benchmarks/sandbox.py --rounds 7

Every contestant runs the same small programs, in Python and in C++ (compiled before), on the same tests, in `--workers`
processes at once. Rounds take turns, and ratios are of contestants within one round, so that a machine whose speed
changes meanwhile does not decide. Prints medians and one line of JSON; the targets are 400 Python test cases a second
with fifty tests a program (the most that Nemotron 3 runs of a problem), and at most three times the cost of an
unprotected process a program with one.

`bwrap`, `none`: Cascade's back ends, one room a program. `plain`: a process a test case, without any protection, as
`python -I -S`. `firejail`: the same in firejail, where it is installed. `process`: a process a program, which runs all
its tests one after the other in one interpreter, so that they can spoil each other: the least a program can cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cascade.sandbox.backends import sandbox
from cascade.sandbox.compiler import compiled
from cascade.sandbox.limits import Limits
from cascade.sandbox.programs import LANGUAGES, Language, Program, installed, missing

PYTHON = os.path.realpath(sys.executable)
LIMITS = Limits(time_s=10.0)
TARGET_TESTS = 400.0  # a second
TARGET_RATIO = 3.0

SOURCES: dict[Language, str] = {
    "python": """import sys
from collections import Counter

n = int(input())
numbers = list(map(int, input().split()))
found = Counter(numbers)
print(n, sum(numbers), max(found, key=lambda number: (found[number], -number)))
# {0}
""",
    "cpp": """#include <bits/stdc++.h>
using namespace std;
int main() {{
    int n; cin >> n;
    map<long long, int> found; long long sum = 0, best = 0;
    for (int i = 0; i < n; i++) {{ long long number; cin >> number; sum += number; found[number]++; }}
    for (auto& [number, count] : found) if (!found.count(best) || count > found[best]) best = number;
    cout << n << ' ' << sum << ' ' << best << endl; // {0}
}}
""",
}
ALL_TESTS = """import io, sys
for text in sys.stdin.read().split("\\0"):
    sys.stdin = io.StringIO(text)
    exec(compile({source!r}, "main.py", "exec"), {{"__name__": "__main__"}})
"""


@dataclass(frozen=True)
class Work:
    """What one worker does in one round."""

    language: Language
    sources: Sequence[str]
    tests: Sequence[tuple[bytes, bytes]]  # of every program: what it reads, and what it is to write


def in_room(back_end: str, work: Work) -> None:
    """One room a program, one run a test."""
    box = sandbox(back_end)
    for source in work.sources:
        with box.open(LIMITS) as room:
            command = installed(Program(work.language, source), room, box)
            for stdin, stdout in work.tests:
                check(room.run(command, stdin).stdout, stdout)


def in_processes(before: Sequence[str], work: Work) -> None:
    """One process a test, without limits but those of what stands `before` the command."""
    for source in work.sources:
        with tempfile.TemporaryDirectory() as folder:
            command = [*before, *_installed_here(work.language, source, Path(folder))]
            for stdin, stdout in work.tests:
                done = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, check=False, timeout=60)
                check(done.stdout, stdout)


def in_one_process(work: Work) -> None:
    """One interpreter a program, which runs all tests itself."""
    for source in work.sources:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "main.py")
            path.write_text(ALL_TESTS.format(source=source))
            texts = b"\0".join(stdin for stdin, _ in work.tests)
            command = [PYTHON, "-I", "-S", str(path)]
            done = subprocess.run(command, input=texts, capture_output=True, cwd=folder, check=False, timeout=60)
            check(done.stdout, b"".join(stdout for _, stdout in work.tests))


def check(written: bytes, expected: bytes) -> None:
    """Raises `AssertionError` where a program has not done its work: a failure would be fast."""
    if written != expected:
        raise AssertionError(f"{written[:200]!r} is not {expected[:200]!r}")


def contestant(name: str) -> Callable[[Work], None]:
    if name == "plain":
        return lambda work: in_processes((), work)
    if name == "firejail":
        return lambda work: in_processes(("firejail", "--quiet", "--noprofile", "--net=none"), work)
    if name == "process":
        return in_one_process
    return lambda work: in_room(name, work)


def work_of(language: Language, programs: int, tests: int, seed: int) -> Work:
    """Programs that differ only in a comment."""
    sources = [SOURCES[language].format(f"{seed}/{number}") for number in range(programs)]
    cases = []
    for test in range(tests):
        numbers = [number * (test + 3) % 17 for number in range(20 + test)]
        best = min(set(numbers), key=lambda number: (-numbers.count(number), number))
        text = f"{len(numbers)}\n{' '.join(map(str, numbers))}\n"
        cases.append((text.encode(), f"{len(numbers)} {sum(numbers)} {best}\n".encode()))
    return Work(language, sources, cases)


def perform(name: str, work: Work) -> None:
    """In a worker process."""
    warnings.simplefilter("ignore")
    contestant(name)(work)


def seconds(pool: ProcessPoolExecutor, name: str, shares: Sequence[Work]) -> float:
    began = time.perf_counter()
    for _ in pool.map(perform, [name] * len(shares), shares):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--programs", type=int, default=12, help="a round and contestant")
    parser.add_argument("--tests", type=int, nargs="*", default=[1, 10, 50], help="of a program")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--contestants", nargs="*", default=["bwrap", "none", "plain", "process", "firejail"])
    options = parser.parse_args()
    languages: list[Language] = [language for language in LANGUAGES if not missing(language)]
    for absent in set(LANGUAGES) - set(languages):
        print(f"{absent}: {missing(absent)}")
    names = [name for name in options.contestants if name != "firejail" or shutil.which("firejail")]
    results, shown = [], f"{'language':10}{'tests':>6}  {'contestant':12}"
    print(f"{shown}{'ms/program':>12}{'programs/s':>12}{'tests/s':>10}{'to plain':>10}")
    with ProcessPoolExecutor(options.workers) as pool:
        for language in languages:
            for tests in options.tests:
                results += measured(pool, language, tests, names, options)
    by = {(found["language"], found["tests"], found["contestant"]): found for found in results}
    many, one = by.get(("python", 50, "bwrap")), by.get(("python", 1, "bwrap"))
    if many and one and "to_plain" in one:
        print(f"test cases a second: {many['tests_per_s']:.0f}, target {TARGET_TESTS:.0f}")
        print(f"cost of a program to that of an unprotected process: {one['to_plain']:.2f}, target {TARGET_RATIO:.0f}")
    print(json.dumps({"workers": options.workers, "rounds": options.rounds, "results": results}))


def measured(
    pool: ProcessPoolExecutor, language: Language, tests: int, names: Sequence[str], options: argparse.Namespace
) -> list[dict[str, object]]:
    """Medians over rounds, in each of which every contestant has its turn."""
    names = [name for name in names if name != "process" or language == "python"]
    share = max(1, options.programs // options.workers)
    took: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds + 1):
        # C++ programs are the same ones in every round, so that all of them are compiled in the first
        seeds = [place + (options.workers * number if language == "python" else 0) for place in range(options.workers)]
        shares = [work_of(language, share, tests, seed) for seed in seeds]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found = seconds(pool, name, shares)
            if number:  # the first round warms up
                took[name].append(found)
    results = []
    programs = share * options.workers
    for name in names:
        each = statistics.median(took[name]) / programs
        found = {"language": language, "tests": tests, "contestant": name, "programs_per_s": 1 / each}
        found |= {"tests_per_s": tests / each, "ms_per_program": 1e3 * each}
        ratio = ""
        if "plain" in names:
            pairs = zip(took[name], took["plain"], strict=True)
            found["to_plain"] = statistics.median(own / plain for own, plain in pairs)
            ratio = f"{found['to_plain']:10.2f}"
        rates = f"{1e3 * each:12.1f}{1 / each:12.1f}{tests / each:10.0f}"
        print(f"{language:10}{tests:6}  {name:12}{rates}{ratio}", flush=True)
        results.append(found)
    return results


def _installed_here(language: Language, source: str, folder: Path) -> list[str]:
    if language == "python":
        (folder / "main.py").write_text(source)
        return [PYTHON, "-I", "-S", "main.py"]
    binary = folder / "main"
    binary.write_bytes(compiled(source.encode(), sandbox("bwrap")))
    binary.chmod(0o755)
    return [str(binary)]


if __name__ == "__main__":
    main()
