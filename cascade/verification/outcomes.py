"""Verdicts that hold whatever an environment returns or raises, and their form on the way between processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import Environment
from cascade.types import Attempt, Row, Score, Verdict
from cascade.verification.verdicts import judge_group, raised, verdict_of

REASON = 8000  # characters of a reason that are kept: an exception may quote an answer of megabytes

PlainVerdict = tuple[float | None, dict[str, float], bool, str, str, float]
"""A verdict as JSON has it: reward, parts, masked, status, reason, seconds."""


def judged(environment: Environment, row: Row, attempts: Sequence[Attempt]) -> list[Verdict]:
    """Verdicts on attempts at one row. What is not a score becomes a failure of the row, whatever it is."""
    try:
        return [_sound(verdict) for verdict in judge_group(environment, row, attempts)]
    except Exception as error:  # noqa: BLE001  an environment may be anyone's, and return anything
        return [_sound(verdict_of(raised(error), 0.0))] * len(attempts)


def plain(verdict: Verdict) -> PlainVerdict:
    """A sound verdict as plain data."""
    score = verdict.score
    if score is None:
        return None, {}, False, verdict.status, verdict.reason, verdict.wall_s
    parts = {str(name): float(value) for name, value in score.parts.items()}
    return float(score.reward), parts, score.masked, verdict.status, verdict.reason, verdict.wall_s


def from_plain(data: Any) -> Verdict:
    """The inverse of `plain`."""
    reward, parts, masked, status, reason, wall_s = data
    return Verdict(None if reward is None else Score(reward, parts, masked), status, reason, wall_s)


def too_slow(deadline_s: float, wall_s: float) -> Verdict:
    """The verdict on an answer that held its verifier beyond the deadline."""
    failure = VerifierFailure(FailureKind.TASK, f"took longer than {deadline_s:g} s")
    return verdict_of(failure, wall_s)


def too_much_memory(wall_s: float) -> Verdict:
    """The verdict on an answer for which the memory of a verifier does not suffice."""
    return verdict_of(VerifierFailure(FailureKind.TASK, "took more memory than a verifier has"), wall_s)


def deadly(how: str, wall_s: float) -> Verdict:
    """The verdict on an answer that ended two processes."""
    return verdict_of(VerifierFailure(FailureKind.TASK, f"ended its worker process twice ({how})"), wall_s)


def no_verdict(why: str, wall_s: float = 0.0) -> Verdict:
    """The verdict where machinery failed, not the answer."""
    return verdict_of(VerifierFailure(FailureKind.INFRASTRUCTURE, shortened(why)), wall_s)


def shortened(reason: str) -> str:
    """The beginning and the end of a long reason."""
    if len(reason) <= REASON:
        return reason
    return f"{reason[: REASON // 4]}\n[{len(reason) - REASON} characters left out]\n{reason[-3 * REASON // 4 :]}"


def _sound(verdict: Verdict) -> Verdict:
    score = verdict.score
    if score is None:
        if verdict.status == "data" and verdict.reason.startswith("MemoryError"):
            return too_much_memory(verdict.wall_s)
        if len(verdict.reason) > REASON:
            return Verdict(None, verdict.status, shortened(verdict.reason), verdict.wall_s)
        return verdict
    if not _is_number(score.reward):
        return _nonsense(f"the reward {score.reward!r:.60} is no finite number", verdict.wall_s)
    if not isinstance(score.parts, Mapping) or not all(map(_is_number, score.parts.values())):
        return _nonsense(f"the parts {score.parts!r:.200} are not finite numbers", verdict.wall_s)
    if not isinstance(score.masked, bool):
        return _nonsense(f"`masked` is {score.masked!r:.60}, not True or False", verdict.wall_s)
    return verdict


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Real)) and math.isfinite(value)


def _nonsense(what: str, wall_s: float) -> Verdict:
    return verdict_of(VerifierFailure(FailureKind.DATA, what), wall_s)
