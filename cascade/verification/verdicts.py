"""Verdicts on attempts at one row: the environment is asked, and whatever it raises becomes a typed failure."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import Environment, ScoresAttempts, ScoresEpisodes, ScoresGroups
from cascade.types import Attempt, Row, Score, Verdict

P = TypeVar("P")


def offers(environment: object, protocol: type[P]) -> TypeGuard[P]:
    """`isinstance` for protocols of methods; remembered by class, as it costs more than many a verdict."""
    return _offers(type(environment), protocol)


@functools.cache
def _offers(cls: type, protocol: type) -> bool:
    return issubclass(cls, protocol)


def judge_group(environment: Environment, row: Row, attempts: Sequence[Attempt]) -> list[Verdict]:
    """Verdicts on attempts at one row, in their order; judged together where the environment compares them."""
    if not offers(environment, ScoresGroups):
        return [judge(environment, row, attempt) for attempt in attempts]
    started = time.monotonic()
    try:
        scores = list(environment.score_group(row, attempts))
    except VerifierFailure as failure:
        scores = [failure] * len(attempts)
    except Exception as error:  # noqa: BLE001  an environment may be anyone's: what it raises is kept, not judged
        scores = [raised(error)] * len(attempts)
    if len(scores) != len(attempts):
        scores = [VerifierFailure(FailureKind.DATA, f"{len(scores)} scores for {len(attempts)} attempts")] * len(
            attempts
        )
    each = (time.monotonic() - started) / max(len(attempts), 1)
    return [verdict_of(score, each) for score in scores]


def judge(environment: Environment, row: Row, attempt: Attempt) -> Verdict:
    """The verdict on one attempt alone."""
    compares = _offers(type(environment), ScoresGroups)
    return judge_group(environment, row, [attempt])[0] if compares else timed(lambda: _score(environment, row, attempt))


def timed(score: Callable[[], Score]) -> Verdict:
    """The verdict of whatever scores, and how long it took."""
    started = time.monotonic()
    try:
        found: Score | VerifierFailure = score()
    except VerifierFailure as failure:
        found = failure
    except Exception as error:  # noqa: BLE001  see `judge_group`
        found = raised(error)
    return verdict_of(found, time.monotonic() - started)


def verdict_of(found: Score | VerifierFailure, wall_s: float) -> Verdict:
    """A score as it is; a failure that is the model's own doing as a reward of 0, any other as no reward."""
    if isinstance(found, Score):
        return Verdict(found, wall_s=wall_s)
    if found.kind is FailureKind.TASK:
        return Verdict(Score(0.0, {"task_failure": 1.0}), "task", found.detail, wall_s)
    return Verdict(None, found.kind.value, found.detail, wall_s)


def raised(error: Exception) -> VerifierFailure:
    """What an environment's own mistake becomes: a failure of the row, with the traceback."""
    trace = "".join(traceback.format_exception(error))
    return VerifierFailure(FailureKind.DATA, f"{type(error).__name__}: {error}\n{trace}")


def _score(environment: Environment, row: Row, attempt: Attempt) -> Score:
    if offers(environment, ScoresAttempts):
        return environment.score_attempt(row, attempt)
    if offers(environment, ScoresEpisodes):
        return environment.score_episode(row, attempt.answers)
    return environment.score(row, attempt.answers[-1])
