"""math: sums of whole numbers, e.g. `17+25=` -> `42`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task, at_least


@dataclass(frozen=True, kw_only=True)
class Addition(ProceduralEnvironment):
    """Sums of two numbers of equal length. A sum and its mirror image count as one task: one split."""

    domain: ClassVar[str] = "math"
    name: str = "addition"
    min_digits: int = 2
    max_digits: int = 2

    def __post_init__(self) -> None:
        at_least("min_digits", self.min_digits, 1)
        at_least("max_digits", self.max_digits, self.min_digits, 9)

    def draw(self, rng: random.Random) -> Task:
        digits = rng.randint(self.min_digits, self.max_digits)
        a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        return Task(f"{a}+{b}=", str(a + b), f"{min(a, b)}+{max(a, b)}")
