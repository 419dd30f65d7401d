"""What verifiers are asked, and what they answer: jobs in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cascade.config import EnvironmentConfig
from cascade.types import Attempt, Row, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """Attempts at one row; judged together only where the environment compares them.

    `decided` is given the verdicts so far, in the order of `attempts` (None: there is none yet), whenever one has come
    of an environment that is judged in worker processes. When it says that they suffice, the rest is dropped: queued
    attempts are not judged, running ones are ended, and their verdicts are failures that say so. A group of GRPO never
    suffices before it is complete, since every reward is in its mean; whether one of many answers is right does.
    """

    environment: str
    row: Row
    attempts: tuple[Attempt, ...]
    decided: Callable[[Sequence[Verdict | None]], bool] | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """What another process makes the same environment from."""

    name: str
    config: EnvironmentConfig
    seed: int


class Verifiers(Protocol):
    """Whoever turns jobs into verdicts. Any thread may call, several at a time."""

    def verify(self, jobs: Sequence[Job]) -> list[list[Verdict]]:
        """The verdicts on every job, in the order of jobs and attempts. Raises nothing for any answer."""
        ...

    def unwanted(self) -> AbstractContextManager[None]:
        """While it is entered nobody wants verdicts: calls in progress are cut short, and new ones get failures."""
        ...

    def metrics(self) -> dict[str, float]:
        """`verifiers/...` since the last call: see `Meter`."""
        ...

    def close(self) -> None:
        """Ends every process and thread; verdicts still waited for become failures. Idempotent."""
        ...


def specs_of(configs: Mapping[str, EnvironmentConfig], seed: int) -> dict[str, EnvironmentSpec]:
    """A recipe's environments as specs, by name."""
    return {name: EnvironmentSpec(name, config, seed) for name, config in configs.items()}
