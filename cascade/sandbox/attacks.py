"""Tries to break out of a room, and says what was stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from cascade.sandbox.attack_table import ATTACKS, BEGAN, ESCAPED, PREAMBLE, Attack
from cascade.sandbox.bait import Bait
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Sandbox

LIMITS = Limits(time_s=10.0, memory_mib=128, disk_mib=16, processes=32, output_kib=64)
LATE_S = 2.0  # a busy machine may end a program that much after its limit
EXCESS = 1.1  # what may be used of memory and output, in limits


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of an attack, e.g. `Tried(attack, "escaped", "connected to the TCP port", 0.03)`.

    `unclear`: the program did not get as far as attacking.
    """

    attack: Attack
    result: Literal["stopped", "escaped", "unclear"]
    detail: str
    wall_s: float


def tried(box: Sandbox, attacks: Sequence[Attack] = ATTACKS, at_once: int = 4) -> list[Tried]:
    """Runs each attack in a room of its own. All that tells success from failure is seen from outside, or printed.

    Raises `SandboxError` where no room opens.
    """

    def several(first: int) -> list[Tried]:
        with Bait() as bait:
            return [_try_twice(box, attack, bait) for attack in attacks[first::at_once]]

    with ThreadPoolExecutor(at_once) as threads:
        found = {each.attack.name: each for some in threads.map(several, range(at_once)) for each in some}
    return [found[attack.name] for attack in attacks]


def _try_twice(box: Sandbox, attack: Attack, bait: Bait) -> Tried:
    """Once more with more time where a busy machine has not let it begin."""
    limits = LIMITS if attack.time_s is None else replace(LIMITS, time_s=attack.time_s)
    first = _try(box, attack, bait, limits)
    return first if first.result != "unclear" else _try(box, attack, bait, replace(limits, time_s=8 * limits.time_s))


def _try(box: Sandbox, attack: Attack, bait: Bait, limits: Limits) -> Tried:
    with box.open(limits) as room:
        name, command = ("main.py", "python") if attack.language == "python" else ("main.sh", "sh")
        source = PREAMBLE + attack.source if attack.language == "python" else attack.source
        room.write(name, source.encode())
        began = time.monotonic()
        outcome = room.run((command, name), variables=bait.variables())
        wall_s = time.monotonic() - began
    found = [*bait.traces(), *_excess(limits, outcome, wall_s, bait.secret)]
    if found:
        return Tried(attack, "escaped", ", ".join(found), wall_s)
    if BEGAN.encode() not in outcome.stdout:
        return Tried(attack, "unclear", f"{outcome.status}: {outcome.stderr[-300:].decode(errors='replace')}", wall_s)
    return Tried(attack, "stopped", outcome.status, wall_s)


def _excess(limits: Limits, outcome: Outcome, wall_s: float, secret: str) -> list[str]:
    said = outcome.stdout + outcome.stderr
    found = []
    if ESCAPED.encode() in said:
        found.append(
            said.partition(ESCAPED.encode())[2].split(b"\n")[0].decode(errors="replace").strip()[:200] or "did it"
        )
    if secret.encode() in said:
        found.append("read the secret")
    if wall_s > EXCESS * limits.time_s + LATE_S:
        found.append(f"ran {wall_s:.1f} s")
    if outcome.peak_memory_mib > EXCESS * limits.memory_mib:
        found.append(f"used {outcome.peak_memory_mib:.0f} MiB")
    if max(len(outcome.stdout), len(outcome.stderr)) > EXCESS * 1024 * limits.output_kib:
        found.append(f"wrote {len(said)} bytes")
    return found
