"""What every procedural environment shares: tasks drawn from a seed, and splits that cannot overlap.

The split of a task is decided by a hash of the task itself, never by where in the stream it was drawn, so a task that
is in the test split is there for every seed and every row count, and no training row can ever be it.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score, Split

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class Task:
    """A question, a right answer, and what makes two questions one task, e.g. `Task("25+17=", "42", "17+25")`."""

    question: str
    answer: str
    key: str = ""  # decides the split; the question itself when empty


def split_of(key: str) -> Split:
    """Which split a task belongs to, by its content alone: a tenth each for validation and test."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10
    return "validation" if tenth == 0 else "test" if tenth == 1 else "train"


def at_least(name: str, value: int, minimum: int, maximum: int | None = None) -> None:
    """Raise `ConfigError` unless `minimum <= value <= maximum`."""
    if value < minimum or (maximum is not None and value > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        raise ConfigError(f"{name} is {value}.", f"Choose {allowed}.")


@dataclass(frozen=True, kw_only=True)
class ProceduralEnvironment(ABC):
    """Rows made by drawing tasks from a seed; the answer is right when it is the expected text, character by character.

    A subclass says how a task is drawn, and overrides `score` where more than one text is right.
    """

    domain: ClassVar[str]
    name: str
    seed: int = 0
    train_rows: int = 4000
    validation_rows: int = 300
    test_rows: int = 300

    @abstractmethod
    def draw(self, rng: random.Random) -> Task:
        """One task of any split; all randomness comes from `rng`."""

    def rows(self, split: Split) -> Sequence[Row]:
        """All rows of a split, distinct and in a fixed order. Raises `DataError` when there are not that many."""
        wanted = {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]
        rng = random.Random(f"{self.seed}/{self.name}/{split}")
        found: dict[str, Row] = {}
        for _ in range(1000 + 200 * wanted):
            if len(found) >= wanted:
                return tuple(found.values())
            task = self.draw(rng)
            if split_of(task.key or task.question) == split:
                data = {"question": task.question, "answer": task.answer}
                row = Row(f"{self.name}/{task.question}", self.domain, self.name, data)
                found.setdefault(task.question, row)
        raise DataError(
            f"Environment {self.name} found only {len(found)} of {wanted} distinct {split} rows.",
            f"Ask for fewer {split}_rows, or widen the task.",
        )

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with `question` and `answer`. Raises `DataError` for any other."""
        data = {key: record.get(key) for key in ("question", "answer")}
        if not all(isinstance(value, str) for value in data.values()):
            raise DataError("The row has no `question` and `answer`.", "Give both, as text.")
        return data

    def messages(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": row.data["question"]}]

    def gold(self, row: Row) -> str:
        return row.data["answer"]

    def score(self, row: Row, answer: str) -> Score:
        """1 for the expected text, else 0. Any other text is the model's own mistake, so nothing is raised."""
        correct = float(answer == row.data["answer"])
        return Score(correct, {"correct": correct})
