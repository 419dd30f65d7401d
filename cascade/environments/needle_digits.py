"""long_context: the few digits hidden in many letters, in order, e.g. `find: qwke7rtyp2d` -> `72`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.procedural import DIGITS, LETTERS, ProceduralEnvironment, Task, at_least


@dataclass(frozen=True, kw_only=True)
class NeedleDigits(ProceduralEnvironment):
    """Needles found by what they are, at places that differ from row to row."""

    domain: ClassVar[str] = "long_context"
    name: str = "needle_digits"
    min_needles: int = 2
    max_needles: int = 4
    min_length: int = 40
    max_length: int = 70

    def __post_init__(self) -> None:
        at_least("min_needles", self.min_needles, 1)
        at_least("max_needles", self.max_needles, self.min_needles)
        at_least("min_length", self.min_length, self.max_needles)
        at_least("max_length", self.max_length, self.min_length)

    def draw(self, rng: random.Random) -> Task:
        haystack = [rng.choice(LETTERS) for _ in range(rng.randint(self.min_length, self.max_length))]
        places = sorted(rng.sample(range(len(haystack)), rng.randint(self.min_needles, self.max_needles)))
        for place in places:
            haystack[place] = rng.choice(DIGITS)
        return Task(f"find: {''.join(haystack)}", "".join(haystack[place] for place in places))
