"""math: sums of several whole numbers, e.g. `7+4+9=` -> `20`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task, at_least


@dataclass(frozen=True, kw_only=True)
class Addition(ProceduralEnvironment):
    """Sums of `min_terms` to `max_terms` numbers below 10 ** `digits`.

    The same numbers in another order count as the same task, so all orders of a sum are in one split.
    """

    domain: ClassVar[str] = "math"
    name: str = "addition"
    digits: int = 1
    min_terms: int = 3
    max_terms: int = 8

    def __post_init__(self) -> None:
        at_least("digits", self.digits, 1, 9)
        at_least("min_terms", self.min_terms, 2)
        at_least("max_terms", self.max_terms, self.min_terms)

    def draw(self, rng: random.Random) -> Task:
        terms = [rng.randrange(10**self.digits) for _ in range(rng.randint(self.min_terms, self.max_terms))]
        question, key = "+".join(map(str, terms)), "+".join(map(str, sorted(terms)))
        return Task(f"{question}=", str(sum(terms)), key)
