"""Demonstrations that people bring: rows of `messages`, `prompt` and `completion`, or `text`, for SFT."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.data.conversations import RawText, conversation_of
from cascade.data.datasets import load_rows
from cascade.errors import DataError
from cascade.types import Message, Row, Score, Split


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Rows of a local file or folder (.jsonl, .jsonl.gz, .json, .parquet) or of a hub data set, as TRL names them.

    Multi-turn conversations train every assistant turn, tools and reasoning included. A test source is optional:
    an answer then scores 1 when it is the reference's last turn, but for white space around it.
    """

    name: str
    domain: str
    train: str
    test: str | None = None
    seed: int = 0
    train_rows: int | None = None  # None: all

    def rows(self, split: Split) -> Sequence[Row]:
        """Rows in their order, or a seeded choice of `train_rows`. There is no validation split."""
        source = {"train": self.train, "validation": None, "test": self.test}[split]
        rows = _load(source, self.name, self.domain) if source else ()
        if split == "train" and self.train_rows is not None:
            rows = tuple(random.Random(f"{self.seed}/{self.name}").sample(rows, min(self.train_rows, len(rows))))
        return rows

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The whole row, which says itself what is trained."""
        return row.data

    def messages(self, row: Row) -> list[Message]:
        """Everything before the last assistant turn."""
        return self._turns(row)[:-1]

    def gold(self, row: Row) -> str:
        """The last assistant turn."""
        return self._turns(row)[-1].get("content", "")

    def score(self, row: Row, answer: str) -> Score:
        """1 for the reference's last turn."""
        return Score(float(answer.strip() == self.gold(row).strip()))

    def _turns(self, row: Row) -> list[Message]:
        found = conversation_of(row.data)
        if isinstance(found, RawText) or found.messages[-1].get("role") != "assistant":
            raise DataError(f"{row.id} does not end with an assistant turn.", "Leave it out of what is evaluated.")
        return found.messages


@functools.cache
def _load(source: str, name: str, domain: str) -> tuple[Row, ...]:
    """The rows of a source; every one is a demonstration. Raises `DataError` naming the first that is not."""
    rows = []
    for number, data in enumerate(load_rows(source), 1):
        try:
            conversation_of(data)
        except DataError as error:
            raise DataError(f"Row {number} of {source}: {error.what}", error.fix) from None
        rows.append(Row(f"{name}/{number}", domain, name, data))
    return tuple(rows)
