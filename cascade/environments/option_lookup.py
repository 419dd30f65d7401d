"""multiple_choice: which option has a property, e.g. `digit? A kz B w7 C Rz D mt` -> `\\boxed{B}`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.boxed import last_boxed
from cascade.environments.choice_letter import grade
from cascade.environments.procedural import DIGITS, LETTERS, ProceduralEnvironment, Task, at_least
from cascade.types import Row, Score

LABELS = "ABCD"
CONSONANTS = "bcdfghjklmnpqrstvwxz"
PROPERTIES = {"digit": DIGITS, "capital": LETTERS.upper(), "vowel": "aeiou", "sign": "!#$%&*+-=@"}


@dataclass(frozen=True, kw_only=True)
class OptionLookup(ProceduralEnvironment):
    """One option has the property asked for, up to `max_decoys` others have another one, the rest have none.

    Guessing earns one in four; taking any option that stands out earns more, and only reading the question earns all.
    """

    domain: ClassVar[str] = "multiple_choice"
    name: str = "option_lookup"
    option_length: int = 2
    max_decoys: int = 1

    def __post_init__(self) -> None:
        at_least("option_length", self.option_length, 1, 8)
        at_least("max_decoys", self.max_decoys, 0, len(LABELS) - 1)

    def draw(self, rng: random.Random) -> Task:
        asked, *others = rng.sample(sorted(PROPERTIES), len(PROPERTIES))
        places = rng.sample(range(len(LABELS)), 1 + rng.randint(0, self.max_decoys))
        options = [[rng.choice(CONSONANTS) for _ in range(self.option_length)] for _ in LABELS]
        for place, wanted in zip(places, (asked, *others), strict=False):
            options[place][rng.randrange(self.option_length)] = rng.choice(PROPERTIES[wanted])
        shown = " ".join(f"{label} {''.join(option)}" for label, option in zip(LABELS, options, strict=True))
        return Task(f"{asked}? {shown}", f"\\boxed{{{LABELS[places[0]]}}}")

    def score(self, row: Row, answer: str) -> Score:
        """1 for the letter in the last box, as `multiple_choice` reads it."""
        correct = float(grade(answer, str(last_boxed(row.data["answer"])), LABELS))
        return Score(correct, {"correct": correct})
