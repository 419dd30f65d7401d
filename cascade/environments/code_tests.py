"""Runs one program on the tests of a row, and counts what became of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.environments.code_rooms import CleanRoom
from cascade.sandbox.limits import Outcome
from cascade.sandbox.programs import NotCompiled

REASONS = ("wrong", "runtime_error", "timeout", "memory", "output_limit", "killed")
SYNTAX = (b"SyntaxError", b"IndentationError", b"TabError")


@dataclass(slots=True)
class Tally:
    """What became of a program, test by test."""

    total: int
    passed: int = 0
    compiled: bool = True
    reasons: Counter[str] = field(default_factory=Counter)  # of `REASONS`, how many tests
    wall_s: float = 0.0  # of all runs together
    slowest_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mib: float = 0.0

    def add(self, outcome: Outcome, reason: str) -> None:
        """Counts a test; `reason`: empty where it passed."""
        if reason:
            self.reasons[reason] += 1
        else:
            self.passed += 1
        self.spent(outcome)

    def spent(self, outcome: Outcome) -> None:
        """Counts what a run took."""
        self.wall_s += outcome.wall_s
        self.slowest_s = max(self.slowest_s, outcome.wall_s)
        self.cpu_s += outcome.cpu_s
        self.peak_memory_mib = max(self.peak_memory_mib, outcome.peak_memory_mib)

    def parts(self) -> dict[str, float]:
        """As numbers for the dashboard."""
        return {
            "passed": float(self.passed),
            "total": float(self.total),
            "compiled": float(self.compiled),
            **{reason: float(self.reasons[reason]) for reason in REASONS},
            "wall_s": self.wall_s,
            "slowest_s": self.slowest_s,
            "peak_memory_mib": self.peak_memory_mib,
        }


def tally(
    room: CleanRoom,
    inputs: Sequence[bytes],
    right: Callable[[int, bytes], bool],
    *,
    stop: bool,
    budget_s: float,
) -> Tally:
    """Runs a program on every input.

    Args:
        right: whether an output is right, by the number of its test.
        stop: at the first test that fails.
        budget_s: of all tests together; those that are left then fail.

    Raises `VerifierFailure` and `SandboxError` where the machine, not the program, has failed.
    """
    found = Tally(len(inputs))
    for number, given_bytes in enumerate(inputs):
        if found.wall_s > budget_s:
            found.reasons["timeout"] += len(inputs) - number
            break
        try:
            outcome = room.run(given_bytes, number + 1 < len(inputs))
        except NotCompiled as error:
            found.spent(error.outcome)
            found.compiled = False
            found.reasons[_word(error.outcome)] += 1
            break
        reason = "" if outcome.status == "ok" else _word(outcome)
        if not reason and not right(number, outcome.stdout):
            reason = "wrong"
        if reason == "runtime_error" and outcome.stderr.rstrip().rpartition(b"\n")[2].startswith(SYNTAX):
            found.compiled = False
        found.add(outcome, reason)
        if reason and stop:
            break
    return found


def call_input(function: str, call: Mapping[str, Any]) -> bytes:
    """What `code_call` reads of a call."""
    told = {"function": function, **{key: call[key] for key in ("args", "kwargs") if key in call}}
    return json.dumps(told).encode(errors="surrogatepass")


def _word(outcome: Outcome) -> str:
    return outcome.status if outcome.status != "ok" else "runtime_error"
