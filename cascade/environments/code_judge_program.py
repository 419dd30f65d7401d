"""Checkers that are programs of the row, as contests have them where several outputs are right.

A checker runs in a room of its own, never in that of the program it judges, with three files: `input.txt`, `output.txt`
and `expected.txt`, whose names are also its arguments, in this order. Exit code 0 is right; 1, 2, 4, 5 and 8 are
wrong, as testlib has it, and so is a failed `assert` of Python. All else is a broken checker.
"""

from __future__ import annotations

from cascade.environments.code_checkers import Checker
from cascade.environments.code_rooms import steady
from cascade.errors import FailureKind, VerifierFailure
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.programs import NotCompiled, Program, installed

FILES = ("input.txt", "output.txt", "expected.txt")
WRONG = (1, 2, 4, 5, 8)
BROKEN = 3
LIMITS = Limits(time_s=30.0, memory_mib=1024, output_kib=64)

_RUNNER = f"""
import runpy, sys, traceback
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    raise
except AssertionError:
    sys.exit({WRONG[0]})
except BaseException:
    traceback.print_exc()
    sys.exit({BROKEN})
"""
"""An uncaught exception of Python has the exit code 1, which is to mean wrong."""


def judged_right(box: Sandbox, checker: Checker, given: bytes, output: bytes, expected: bytes) -> bool:
    """What a checker says. Raises `VerifierFailure` (`data`) where it is broken, `SandboxError` where the room is."""
    outcome = steady(lambda time_s: _run(box, checker, (given, output, expected), time_s), LIMITS.time_s)
    if outcome.status == "ok":
        return True
    if outcome.status == "runtime_error" and outcome.exit_code in WRONG:
        return False
    said = outcome.stderr[-2000:].decode(errors="replace")
    how = f"exit code {outcome.exit_code}" if outcome.status == "runtime_error" else outcome.status
    raise VerifierFailure(FailureKind.DATA, f"the checker of the row failed ({how})\n{said}")


def _run(box: Sandbox, checker: Checker, texts: tuple[bytes, bytes, bytes], time_s: float) -> Outcome:
    language = "cpp" if checker.language == "cpp" else "python"
    with box.open(LIMITS) as room:
        try:
            command = installed(Program(language, checker.source), room, box)
        except NotCompiled as error:
            said = error.outcome.stderr[:2000].decode(errors="replace")
            raise VerifierFailure(FailureKind.DATA, f"the checker of the row does not compile\n{said}") from None
        for name, text in zip(FILES, texts, strict=True):
            room.write(name, text)
        if language == "python":
            room.write("run_checker.py", _RUNNER.encode())
            command = ("python", "run_checker.py", *command[1:])
        return room.run((*command, *FILES), time_s=time_s)
