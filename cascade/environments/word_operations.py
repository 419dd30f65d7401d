"""instruction_following: chained instructions carried out on words, e.g. `upper,reverse: cat dog` -> `DOG CAT`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task, at_least

WORDS = (
    *("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "jay", "owl", "pig", "ram"),
    *("ash", "bay", "elm", "fig", "ivy", "oak", "map", "net", "sky", "sea", "key", "jar"),
)

OPERATIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "upper": lambda words: [word.upper() for word in words],
    "reverse": lambda words: words[::-1],
    "drop": lambda words: words[1:],
    "bang": lambda words: [*words[:-1], words[-1] + "!"],
}
"""Each takes at least two words and leaves at least one."""


@dataclass(frozen=True, kw_only=True)
class WordOperations(ProceduralEnvironment):
    """Chains of distinct operations on distinct words. The order matters: `bang,reverse` is not `reverse,bang`."""

    domain: ClassVar[str] = "instruction_following"
    name: str = "word_operations"
    min_operations: int = 2
    max_operations: int = 3
    min_words: int = 2
    max_words: int = 3

    def __post_init__(self) -> None:
        at_least("min_operations", self.min_operations, 1)
        at_least("max_operations", self.max_operations, self.min_operations, len(OPERATIONS))
        at_least("min_words", self.min_words, 2)
        at_least("max_words", self.max_words, self.min_words, len(WORDS))

    def draw(self, rng: random.Random) -> Task:
        operations = rng.sample(sorted(OPERATIONS), rng.randint(self.min_operations, self.max_operations))
        words = rng.sample(WORDS, rng.randint(self.min_words, self.max_words))
        result = words
        for operation in operations:
            result = OPERATIONS[operation](result)
        return Task(f"{','.join(operations)}: {' '.join(words)}", " ".join(result))
