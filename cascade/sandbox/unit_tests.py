"""Programs judged by tests that they can neither read nor touch: tests and program run in two rooms, joined by a line.

The program's room holds its files. The referee's room holds the tests; what tests see of the program are stand-ins that
ask over the line, and what they compare are their own plain copies. See docs/unit_tests.md.
"""

from __future__ import annotations

import atexit
import json
import os
import py_compile
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Room, Sandbox

INSIDE = Path(__file__).parent / "inside"
PLACE = "/.cascade"  # where rooms show that folder
REFEREE_MIB = 1024
REFEREE_KIB = 8192  # of its verdict
GRACE_S = 5.0  # that tests may take beyond the program's time, which waiting for the program is part of
IDLE_ROOMS = 8
WARM = "/tmp/.warm.py"  # a room imports once, for all runs in it, what a script that is written into it imports

Became = Literal["passed", "failed", "error", "skipped"]
Verdict = Literal["passed", "failed", "timeout", "memory", "output_limit", "killed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """What a program is judged by; made by the functions below, one a style."""

    style: Literal["unittest", "pytest", "check", "statements", "calls"]
    modules: Mapping[str, str] = field(default_factory=dict)  # dotted name -> source; the program's room has none of it
    run: Sequence[str] = ()  # of the modules, those with tests
    setup: str = ""
    statements: Sequence[str] = ()
    function: str = ""
    program_module: str = ""  # where statements and calls find the program's names
    calls: Sequence[tuple[Sequence[Any], Sequence[Any]]] = ()
    tolerance: float = 0.0
    in_one_process: bool = False  # with the program, which can cheat then: for tests that reach into it

    __test__ = False  # pytest is not to collect it


def test_files(
    files: Mapping[str, str],
    framework: Literal["unittest", "pytest"] = "unittest",  # noqa: PT028  this is no test
    in_one_process: bool = False,  # noqa: PT028
) -> Tests:
    """Files of tests, and what they import besides the program: path -> source.

    Those named `test_*.py` or `*_test.py` are run. `in_one_process`: see docs/unit_tests.md before you ask for it.
    Raises `ConfigError` where no file has tests.
    """
    modules = {module_name(path): source for path, source in files.items() if path.endswith(".py")}
    run = tuple(name for name in modules if _has_tests(name, modules[name]))
    if not run:
        raise ConfigError(f"No file of tests among {sorted(files)}.", "Name one `test_….py` or `…_test.py`.")
    return Tests(style=framework, modules=modules, run=run, in_one_process=in_one_process)


test_files.__test__ = False  # type: ignore[attr-defined]  pytest is not to collect it


def check_function(source: str, entry_point: str, *, setup: str = "", module: str = "solution") -> Tests:
    """HumanEval: `source` defines `check(candidate)`, which is one test.

    `setup` runs before it at the tests' end, e.g. the prompt, whose helper functions the tests use: then they use the
    prompt's and not the program's.
    """
    return Tests(style="check", statements=[source], function=entry_point, setup=setup, program_module=module)


def assertions(lines: Sequence[str], *, setup: str = "", module: str = "solution") -> Tests:
    """MBPP: statements that raise where the program is wrong, one test each."""
    return Tests(style="statements", statements=list(lines), setup=setup, program_module=module)


def calls(
    function: str,
    cases: Sequence[tuple[Sequence[Any], Any]],
    *,
    module: str = "solution",
    tolerance: float = 0.0,
    several: bool = False,
) -> Tests:
    """Arguments and what the function, or the method of a class `Solution`, is to return, as JSON has them.

    Tuples are lists there, and numbers may differ by `tolerance`, relative beyond 1. `several`: what each case gives is
    a list of values, any of which is right.
    """
    accepted = [(list(arguments), list(value) if several else [value]) for arguments, value in cases]
    return Tests(style="calls", function=function, calls=accepted, program_module=module, tolerance=tolerance)


def module_name(path: str) -> str:
    """E.g. `a.b` for `a/b.py`, `a` for `a/__init__.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _has_tests(name: str, source: str) -> bool:
    last = name.rpartition(".")[2]
    named = last.startswith("test_") or last.endswith(("_test", "_tests")) or last in ("test", "tests")
    return named and "def test" in source


@dataclass(frozen=True, slots=True)
class TestResult:
    """What became of one test."""

    name: str
    became: Became
    message: str = ""

    __test__ = False


@dataclass(frozen=True, slots=True)
class TestReport:
    """What became of a program, e.g. 3 of 4 tests passed and the verdict `failed`."""

    verdict: Verdict  # passed: every test that was not skipped, and at least one
    passed: int
    total: int  # without the skipped; at least 1
    reason: str  # of the first test that did not pass, or why there is no verdict
    tests: tuple[TestResult, ...]
    wall_s: float  # of the program, with its waiting for the tests
    cpu_s: float  # of the program
    peak_memory_mib: float  # of the program's room
    starved: bool  # see `Outcome`
    program: Outcome

    __test__ = False


class Judge:
    """Judges programs with one back end. Any thread may call; keeps the rooms of referees that were left clean."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._idle: list[Room] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def judge(self, program_files: Mapping[str, str], tests: Tests, limits: Limits) -> TestReport:
        """Runs a program's tests. Whatever the program does, this ends soon after `limits.time_s`.

        `program_files`: path -> source. Raises `SandboxError` where the sandbox has failed, and not the program.
        """
        if self._box.name == "none":
            raise SandboxError("sandbox=none has no rooms to keep a program from its tests.", "Use sandbox=bwrap.")
        _compile_inside()
        word = secrets.token_hex(16)
        names = [module_name(path) for path in program_files]
        order = json.dumps({**asdict(tests), "word": word, "program": names}).encode()
        if tests.in_one_process:
            return self._in_one_process(program_files, order, word, limits)
        for_program, for_tests = socket.socketpair()
        referee = _Referee(self, order, for_tests, limits.time_s + GRACE_S)
        referee.start()  # it imports what it needs while the other room is made
        try:
            with self._box.open(limits) as room:
                _write(room, program_files)
                began = time.monotonic()
                try:
                    outcome = room.run(("python", f"{PLACE}/candidate.py"), line=for_program)
                finally:
                    for_program.close()  # the referee sees the end of it, whatever it was
                wall_s = time.monotonic() - began
        finally:
            for_program.close()
            said = referee.end()
        return _report(said, word, outcome, wall_s)

    def _in_one_process(self, files: Mapping[str, str], order: bytes, word: str, limits: Limits) -> TestReport:
        with self._box.open(limits) as room:
            _write(room, files)
            outcome = room.run(("python", f"{PLACE}/one_process.py"), stdin=order)
        return _report(outcome, word, outcome, outcome.wall_s)

    def _take(self, limits: Limits) -> Room:
        with self._lock:
            if self._owner != os.getpid():  # a fork: the rooms belong to the parent
                self._idle, self._owner = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        room = self._box.open(limits)
        room.write(WARM, b"import json, collections, re, enum, functools, operator, copy, dataclasses, datetime")
        return room

    def _give_back(self, room: Room, clean: bool) -> None:
        with self._lock:
            if clean and len(self._idle) < IDLE_ROOMS:
                self._idle.append(room)
                return
        room.close()

    def close(self) -> None:
        """Closes the rooms that are kept. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for room in idle if self._owner == os.getpid() else ():
            room.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Referee:
    """The run of the tests, in a thread of its own."""

    def __init__(self, judge: Judge, order: bytes, line: socket.socket, time_s: float) -> None:
        self._judge = judge
        self._order = order
        self._line = line
        self._time_s = time_s
        self._outcome: Outcome | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> Outcome | None:
        """Waits for it. Raises what it failed with."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._outcome

    def _run(self) -> None:
        limits = Limits(time_s=self._time_s, memory_mib=REFEREE_MIB, output_kib=REFEREE_KIB, disk_mib=16)
        room = None
        try:
            room = self._judge._take(limits)
            self._outcome = room.run(
                ("python", f"{PLACE}/referee.py"), stdin=self._order, time_s=self._time_s, line=self._line
            )
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            self._failure = error
        finally:
            self._line.close()
            if room is not None:
                with suppress(SandboxError):
                    clean = self._outcome is not None and b'"clean": true' in self._outcome.stdout[-40:]
                    self._judge._give_back(room, clean)


@cache
def judge_of(box: Sandbox) -> Judge:
    """The judge of a back end in this process."""
    made = Judge(box)
    atexit.register(made.close)
    return made


def judge(box: Sandbox, program_files: Mapping[str, str], tests: Tests, limits: Limits) -> TestReport:
    """See `Judge.judge`."""
    return judge_of(box).judge(program_files, tests, limits)


@cache
def _compile_inside() -> None:
    """Rooms cannot write what they compile; it costs them more than most tests do."""
    for path in INSIDE.glob("*.py"):
        with suppress(OSError, py_compile.PyCompileError):
            py_compile.compile(str(path), doraise=True)


def _write(room: Room, files: Mapping[str, str]) -> None:
    for path, source in files.items():
        room.write(path, source.encode(errors="surrogatepass"))


def _report(said: Outcome | None, word: str, program: Outcome, wall_s: float) -> TestReport:
    told = _verdict(said, word)
    tests = tuple(TestResult(*each) for each in told["tests"]) if told else ()
    count = Counter(test.became for test in tests)
    total = max(1, len(tests) - count["skipped"])
    passed = bool(told) and count["passed"] == total and not told["broken"]
    ended = program.status if program.status not in ("ok", "runtime_error") else "failed"
    first = next((f"{test.name}: {test.message}" for test in tests if test.became in ("failed", "error")), "")
    return TestReport(
        verdict="passed" if passed else ended,
        passed=count["passed"] if told else 0,
        total=total,
        reason="" if passed else first or _why_none(said, bool(told)),
        tests=tests,
        wall_s=wall_s,
        cpu_s=program.cpu_s,
        peak_memory_mib=program.peak_memory_mib,
        starved=program.starved or (said is not None and said.starved),
        program=program,
    )


def _verdict(said: Outcome | None, word: str) -> dict[str, Any]:
    """What the referee says, if it has come to its end: the word that only it was told, then its results."""
    if said is None or said.status != "ok" or not said.stdout.startswith(word.encode() + b" "):
        return {}
    return json.loads(said.stdout[len(word) + 1 :])


def _why_none(said: Outcome | None, told: bool) -> str:
    if told:
        return "No test ran."
    if said is None:
        return "The tests did not start."
    last = said.stderr.decode(errors="replace").rstrip().rpartition("\n")[2]
    return f"The tests did not come to their end: {said.status}. {last}".rstrip()
