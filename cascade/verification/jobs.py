"""What verifiers are asked, and what they answer: jobs in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade.config import EnvironmentConfig
from cascade.types import Attempt, Row, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """Attempts at one row; judged together only where the environment compares them."""

    environment: str
    row: Row
    attempts: tuple[Attempt, ...]


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

    def metrics(self) -> dict[str, float]:
        """`verifiers/...` since the last call: see `Meter`."""
        ...

    def close(self) -> None:
        """Ends every process and thread; verdicts still waited for become failures. Idempotent."""
        ...


def specs_of(configs: Mapping[str, EnvironmentConfig], seed: int) -> dict[str, EnvironmentSpec]:
    """A recipe's environments as specs, by name."""
    return {name: EnvironmentSpec(name, config, seed) for name, config in configs.items()}
