"""Verdicts less what is taken off for attempts that are written wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from cascade.config import PenaltiesConfig
from cascade.environments.penalties import penalise
from cascade.types import Attempt, Verdict
from cascade.verification.jobs import Job, Verifiers


class PenalisedVerifiers:
    """What other verifiers say, with the penalties of every environment that has some."""

    def __init__(self, verifiers: Verifiers, penalties: Mapping[str, PenaltiesConfig]) -> None:
        self._verifiers = verifiers
        self._penalties = penalties

    def verify(self, jobs: Sequence[Job]) -> list[list[Verdict]]:
        """See `Verifiers.verify`."""
        return [
            [
                self._penalised(job.environment, attempt, verdict)
                for attempt, verdict in zip(job.attempts, found, strict=True)
            ]
            for job, found in zip(jobs, self._verifiers.verify(jobs), strict=True)
        ]

    def unwanted(self) -> AbstractContextManager[None]:
        """See `Verifiers.unwanted`."""
        return self._verifiers.unwanted()

    def metrics(self) -> dict[str, float]:
        """See `Verifiers.metrics`."""
        return self._verifiers.metrics()

    def close(self) -> None:
        """See `Verifiers.close`."""
        self._verifiers.close()

    def _penalised(self, environment: str, attempt: Attempt, verdict: Verdict) -> Verdict:
        penalties = self._penalties.get(environment)
        if penalties is None or verdict.score is None:
            return verdict
        return dataclasses.replace(verdict, score=penalise(verdict.score, attempt, penalties, attempt.thinking))
