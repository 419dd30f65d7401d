"""Rooms in which every run of a program finds what was put there and nothing else, and has a core to run on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cascade.environments.code_given import given
from cascade.errors import FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Room, Sandbox
from cascade.sandbox.programs import NotCompiled, Program, installed

PATIENCE = (1, 3, 9)  # times its limit that a run gets where it had no core to run on
TRIES = 3  # of a compilation that had none
CALLER = Path(__file__).with_name("code_call.py")

_TRACES = """
import os
left, folders = [], ["/tmp", "/dev/shm", "/dev/mqueue"]
while folders:
    path = folders.pop()
    try:
        seen = os.lstat(path)
        left.append((path, seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
        if seen.st_mode & 0o170000 == 0o040000:
            folders += [path + "/" + name for name in sorted(os.listdir(path))]
    except FileNotFoundError:
        pass
for kind in ("shm", "sem", "msg"):
    try:
        with open("/proc/sysvipc/" + kind) as file:
            left.append(file.read())
    except OSError:
        pass
os.write(1, repr(left).encode(errors="surrogateescape"))
"""
"""Prints what tells a room that a program has left something in from one that is as it was."""


class CleanRoom:
    """A room in which every run finds only what was put there, whatever the runs before have left behind."""

    def __init__(self, box: Sandbox, limits: Limits, furnish: Callable[[Room], Sequence[str]]) -> None:
        """`furnish` puts a program into a room and returns its command."""
        self._box = box
        self._limits = limits
        self._furnish = furnish
        self._room: Room | None = None
        self._command: Sequence[str] = ()
        self._traces: bytes | None = None  # of the room as it was furnished; None: nothing has run in it
        self._used = False

    def run(self, stdin: bytes, more: bool) -> Outcome:
        """Runs the program. `more`: other runs will follow. Raises `SandboxError` and `VerifierFailure`."""
        return steady(lambda time_s: self._run(stdin, more, time_s), self._limits.time_s)

    def close(self) -> None:
        if self._room is not None:
            self._room.close()
            self._room = None

    def _run(self, stdin: bytes, more: bool, time_s: float) -> Outcome:
        try:
            return self._ready(more).run(self._command, stdin, time_s=time_s)
        except SandboxError:
            self.close()  # a room may end with its program; the next one is the machine's to lose
            return self._ready(more).run(self._command, stdin, time_s=time_s)

    def _ready(self, more: bool) -> Room:
        if self._room is not None and self._used and self._traced() != self._traces:
            self.close()
        if self._room is None:
            self._room = self._box.open(self._limits)
            self._command = self._furnish(self._room)
            self._traces = self._traced() if more else None
        self._used = True
        return self._room

    def _traced(self) -> bytes | None:
        """What lies in the room; another value every time where that cannot be said."""
        if self._room is None or self._box.name == "none":
            return None  # without a sandbox the folder is the whole machine's
        try:
            found = self._room.run(("python", "-"), _TRACES.encode(), folder="/")  # where no module lies
        except SandboxError:
            return b"gone"
        return found.stdout if found.status == "ok" else str(time.monotonic_ns()).encode()


def steady(run: Callable[[float], Outcome], time_s: float) -> Outcome:
    """A run, by the seconds it is given, that had a core to run on; one that had none is run again with more.

    Then its limit is one of CPU seconds. Raises `VerifierFailure` where the machine has no core, several times.
    """
    for patience in PATIENCE:
        outcome = run(patience * time_s)
        if patience > 1 and outcome.cpu_s > time_s:
            return replace(outcome, status="timeout", starved=False)
        if not outcome.starved:
            return outcome
    raise VerifierFailure(FailureKind.INFRASTRUCTURE, f"no core was free to run a program, {len(PATIENCE)} times")


@contextmanager
def prepared(
    box: Sandbox, program: Program, limits: Limits, way: Literal["plain", "main", "call"]
) -> Iterator[CleanRoom]:
    """A clean room for a program, which is closed in the end.

    Args:
        way: as a program of its own; as LiveCodeBench runs it (`main`), if it is Python; or calls of one function.
    """

    def furnish(room: Room) -> Sequence[str]:
        command = _installed(program, room, box)
        if way == "plain" or program.language != "python":
            return command
        room.write("given.py", given(program.source).encode())
        room.write("call.py", CALLER.read_bytes())
        return ("python", "call.py", way)

    room = CleanRoom(box, limits, furnish)
    try:
        yield room
    finally:
        room.close()


def _installed(program: Program, room: Room, box: Sandbox) -> Sequence[str]:
    """Tries again where the compiler had no core to run on."""
    for left in reversed(range(TRIES)):
        try:
            return installed(program, room, box)
        except NotCompiled as error:
            if not error.outcome.starved:
                raise
            if not left:
                break
    raise VerifierFailure(FailureKind.INFRASTRUCTURE, f"no core was free to compile a program, {TRIES} times")
