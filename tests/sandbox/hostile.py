"""A program that means harm, run in a room, and all that must hold afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cascade.sandbox.attack_table import BEGAN, ESCAPED, PREAMBLE
from cascade.sandbox.bait import Bait
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.programs import Program, installed

LIMITS = Limits(time_s=4.0, memory_mib=96, disk_mib=16, processes=24, output_kib=32)
SHORT = Limits(time_s=0.5, memory_mib=96, disk_mib=16, processes=24, output_kib=32)
EXCESS, SLACK_S = 1.1, 0.5  # the slack is for a machine that does other things meanwhile
FINE = b"print(sum(range(10)))"


@dataclass(frozen=True)
class Hostile:
    """`ends`: how it may end. `destroys`: it may bring its whole room down, or make it unusable for later runs."""

    name: str
    source: str
    ends: Sequence[str] = ("ok",)
    language: Literal["python", "shell", "cpp"] = "python"
    limits: Limits = LIMITS
    destroys: bool = False


def run_hostile(box: Sandbox, program: Hostile, bait: Bait) -> Outcome:
    """Runs it, and asserts that it did no harm, to its room's first process neither. Returns its outcome."""
    limits = program.limits
    with box.open(limits) as room:
        if program.language == "cpp":
            command: Sequence[str] = installed(Program("cpp", program.source), room, box)
        else:
            name, words = ("main.py", ("python",)) if program.language == "python" else ("main.sh", ("sh",))
            room.write(name, ((PREAMBLE if program.language == "python" else "") + program.source).encode())
            command = (*words, name)
        began = time.monotonic()
        outcome = room.run(command, b"input\n", variables=bait.variables())
        wall_s = time.monotonic() - began
        after = room.run(("python", "-"), FINE, time_s=4.0)
        began = time.monotonic()
    closing_s = time.monotonic() - began
    assert outcome.status in program.ends, outcome
    assert program.language != "python" or BEGAN.encode() in outcome.stdout or outcome.status == "output_limit", outcome
    assert ESCAPED.encode() not in outcome.stdout + outcome.stderr, outcome
    assert bait.secret.encode() not in outcome.stdout + outcome.stderr
    assert bait.traces() == []
    assert wall_s <= EXCESS * limits.time_s + SLACK_S, outcome
    assert outcome.peak_memory_mib <= EXCESS * limits.memory_mib, outcome
    assert max(len(outcome.stdout), len(outcome.stderr)) <= EXCESS * limits.output_kib * 1024
    assert closing_s < 5.0
    assert program.destroys or (after.status, after.stdout) == ("ok", b"45\n"), after
    return outcome
