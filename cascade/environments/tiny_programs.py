"""One-line programs of a policy at work: an expression of `x`, evaluated in the sandbox on every test input.

What is expected never enters the room, and every program has a room of its own. A program is a function of its inputs
alone, and those are the same for all rows of an environment, so what it printed is remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.environments.code_rooms import steady
from cascade.errors import FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits

LONGEST = 80  # characters of a program
REMEMBERED = 50_000  # programs

RUNNER = b"""import sys
with open("answer.py", encoding="utf-8", newline="") as file:
    program = compile(file.read(), "answer.py", "eval")
for line in sys.stdin.read().split():
    print(repr(eval(program, {"x": int(line)})))
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where programs run, and on what."""

    inputs: tuple[int, ...]
    sandbox: str
    limits: Limits


def printed(text: str, bench: Bench) -> tuple[str, ...] | None:
    """What a program gives on every input, as Python shows it; None where it is no program, or does not end well.

    Raises `VerifierFailure` where the machine, not the program, is at fault.
    """
    program = text.strip()
    return _run(program, bench) if is_program(program) else None


def is_program(text: str) -> bool:
    """Whether the compiler takes it, which is the one that the runner would ask: rooms have this very interpreter.

    So a text that is no program costs no room. Short texts alone are asked about: long ones can end the compiler.
    """
    if len(text) > LONGEST:
        return False
    try:
        compile(text, "answer.py", "eval", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        return False
    return True


@functools.lru_cache(maxsize=REMEMBERED)
def _run(program: str, bench: Bench) -> tuple[str, ...] | None:
    given = "\n".join(map(str, bench.inputs)).encode()
    try:
        with sandbox(bench.sandbox).open(bench.limits) as room:
            room.write("answer.py", program.encode())
            room.write("runner.py", RUNNER)
            outcome = steady(
                lambda time_s: room.run(("python", "runner.py"), given, time_s=time_s), bench.limits.time_s
            )
    except SandboxError as error:
        raise VerifierFailure(FailureKind.INFRASTRUCTURE, str(error)) from error
    ended_well = outcome.status == "ok" and outcome.exit_code == 0
    return tuple(outcome.stdout.decode(errors="replace").splitlines()) if ended_well else None


def share_right(found: Sequence[str] | None, expected: Sequence[object]) -> float:
    """The share of the inputs on which a program gave what was expected; 0 where it gave more or fewer lines."""
    if found is None or len(found) != len(expected):
        return 0.0
    return sum(one == repr(other) for one, other in zip(found, expected, strict=True)) / len(expected)
