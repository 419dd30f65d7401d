"""preference: items in the order a judge prefers, e.g. `rank 5170` -> `0157`.

The judge is a rule, not a model of people: it prefers lower digits first. It stands in for a reward model where none
can be had, and shows what a stage that rewards one taste alone does to everything learnt before it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.procedural import DIGITS, ProceduralEnvironment, Task, at_least


@dataclass(frozen=True, kw_only=True)
class RankedItems(ProceduralEnvironment):
    """`items` digits, repeats allowed, to be put in the judge's order. Only a whole right order is rewarded."""

    domain: ClassVar[str] = "preference"
    name: str = "ranked_items"
    items: int = 10

    def __post_init__(self) -> None:
        at_least("items", self.items, 2)

    def draw(self, rng: random.Random) -> Task:
        items = "".join(rng.choice(DIGITS) for _ in range(self.items))
        return Task(f"rank {items}", "".join(sorted(items)))
