"""How many tokens the rollouts of a prompt have: a run's own rollouts replayed, or log-normal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as parquet

from cascade.errors import DataError

COLUMNS = ["row_id", "sample", "sampled", "token_ids", "policy_version"]


class ResponseLengths(Protocol):
    """Draws the sampled tokens of the rollouts of one prompt, at least one each."""

    def draw(self, rollouts: int, rng: np.random.Generator) -> Sequence[int]:
        """Tokens of each of the `rollouts` of a prompt."""
        ...


@dataclass(frozen=True)
class LogNormalLengths:
    """log tokens ~ N(mu, sigma^2), cut at `limit`, e.g. `LogNormalLengths(6_000, 0.9, 49_152)`.

    A prompt's rollouts are alike: `between` is the share of the variance that lies between prompts.
    """

    mean: float  # tokens before the cut
    sigma: float  # of the natural logarithm
    limit: int  # tokens
    between: float = 0.5

    def __post_init__(self) -> None:
        """Raises `DataError` for a distribution that is none."""
        if self.mean <= 0 or self.sigma < 0 or self.limit < 1 or not 0 <= self.between <= 1:
            raise DataError(f"{self} is no distribution of lengths.", "Give a mean and a limit above 0.")

    def draw(self, rollouts: int, rng: np.random.Generator) -> Sequence[int]:
        """See `ResponseLengths`."""
        mu = math.log(self.mean) - self.sigma**2 / 2
        prompt = rng.normal() * self.sigma * math.sqrt(self.between)
        own = rng.normal(size=rollouts) * self.sigma * math.sqrt(1 - self.between)
        return np.clip(np.exp(mu + prompt + own), 1, self.limit).astype(int).tolist()


@dataclass(frozen=True)
class ReplayedLengths:
    """The groups of a run as they were: a prompt's rollouts stay together."""

    groups: tuple[tuple[int, ...], ...]  # sampled tokens of a prompt's rollouts

    def draw(self, rollouts: int, rng: np.random.Generator) -> Sequence[int]:
        """See `ResponseLengths`. A group of another size is drawn from with replacement."""
        group = self.groups[int(rng.integers(len(self.groups)))]
        return list(group) if len(group) == rollouts else rng.choice(group, size=rollouts).tolist()


def lengths_of_run(folder: Path) -> ReplayedLengths:
    """The lengths in a stage's `rollouts/` folder. Raises `DataError` when it holds none."""
    groups: dict[tuple[str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for file in sorted(folder.glob("step_*.parquet")):
        columns = parquet.read_table(file, columns=COLUMNS).to_pydict()
        for row, sample, sampled, tokens in zip(*(columns[name] for name in COLUMNS[:4]), strict=True):
            groups[file.name, row][sample] += sum(sampled) if sampled else len(tokens)  # parts of an episode add up
    if not groups:
        raise DataError(
            f"There are no rollouts in {folder}.", "Name a stage's rollouts/ folder, with rollouts_every > 0."
        )
    return ReplayedLengths(tuple(tuple(max(1, tokens) for tokens in group.values()) for group in groups.values()))
