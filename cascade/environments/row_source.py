"""What every environment shares whose rows people bring: sources, splits, malformed rows, prompts."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade.data.datasets import NumberedRow, load_numbered
from cascade.environments.records import shared_fields
from cascade.errors import ConfigError, DataError
from cascade.ports import ReadsPaths
from cascade.types import Message, Row, Split

SHOWN = 20  # malformed rows that a message lists


@dataclass(frozen=True, kw_only=True)
class RowEnvironment(ABC):
    """Rows of files or of the hub, in the forms that people have them in.

    A source is a path (.jsonl, .jsonl.gz, .json, .parquet, or a folder of these) or a hub id, with `:configuration`
    behind it where the data set has several, and `@split` where another split than the one of that name is meant.
    Where no `validation` or `test` source is named, as many rows as asked for are cut off `train` by a hash of their
    content: the same for every seed. A training row that is also a validation or test row is dropped. `seed` chooses
    which rows stay when `train_rows` keeps fewer than there are. Rows of several environments may be in one file:
    `where` chooses.

    A subclass says what `fields` a record must have, how to `ask` where a record has no prompt of its own, what a
    gold answer is, and how to score.
    """

    name: str = "rows"
    domain: str = ""
    seed: int = 0
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    train_rows: int | None = None  # None: all
    validation_rows: int = 256
    test_rows: int = 1000
    max_malformed: float = 0.0  # share of a source's rows that may be malformed; they are listed and left out
    where: Mapping[str, str] = field(default_factory=dict)  # e.g. {"agent_ref.name": "mcqa"}: only such rows

    def __post_init__(self) -> None:
        for key in ("train_rows", "validation_rows", "test_rows"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key} is {value}.", "Give a number of rows.")
        if not 0 <= self.max_malformed < 1:
            raise ConfigError(f"max_malformed is {self.max_malformed}.", "Give a share of the rows, e.g. 0.01.")

    @abstractmethod
    def fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """What scoring needs of a record, as plain JSON values. Raises `DataError` for a malformed one."""

    @abstractmethod
    def gold(self, row: Row) -> str:
        """An answer that scores 1. Raises `DataError` where a row has none."""

    def ask(self, row: Row) -> list[Message]:
        """The prompt of a row that has no `messages`."""
        raise DataError(f"{row.id} has no prompt.", "Give rows a `prompt`, or NeMo-Gym's `responses_create_params`.")

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`: what scoring needs, and `messages`, `tools` and `thinking` where it has them."""
        return {**shared_fields(record), **self.fields(record)}

    def messages(self, row: Row) -> list[Message]:
        return list(row.data["messages"]) if "messages" in row.data else self.ask(row)

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """The tools of the prompt in the form of chat completions; None without any."""
        return row.data.get("tools")

    def thinking(self, row: Row) -> bool | None:
        """Whether the row asks for reasoning; None: as the recipe says."""
        return row.data.get("thinking")

    def rows(self, split: Split) -> Sequence[Row]:
        """Distinct rows of a split in a fixed order. Raises `DataError` for a source that cannot be read or split."""
        if split == "train":
            rows = _without(self._pool, self._held_out("validation"), self._held_out("test"))
            if self._pool and not rows:
                raise DataError(f"{self.train} has no row left to train on.", "Lower validation_rows and test_rows.")
            if self.train_rows is not None and self.train_rows < len(rows):
                chosen = set(random.Random(f"{self.seed}/{self.name}").sample(sorted(rows), self.train_rows))
                rows = {key: row for key, row in rows.items() if key in chosen}
            return tuple(rows.values())
        return tuple(self._held_out(split).values())

    def rows_of(self, records: Iterable[NumberedRow], source: str) -> list[Row]:
        """Records as rows, in order. Malformed ones are listed on stderr, and too many of them a `DataError`."""
        rows, malformed, count = [], [], 0
        folder = folder_of(source)
        for number, record in records:
            if record is not None and not self._meant(record):
                continue
            count += 1
            try:
                if record is None:
                    raise DataError("Not a JSON object.", "")
                data = self.read(record)
            except DataError as error:
                malformed.append(f"{number}: {error.what}")
                continue
            identity = f"{self.name}/{content_hash(data)}"  # of paths as they are written: the same on every machine
            data = self.placed(data, folder) if isinstance(self, ReadsPaths) else data
            rows.append(Row(identity, self.domain, self.name, data))
        if malformed:
            listed = "\n  ".join(malformed[:SHOWN]) + (
                f"\n  and {len(malformed) - SHOWN} more" * (len(malformed) > SHOWN)
            )
            said = f"{len(malformed)} of {count} rows of {source} are malformed (line or row, and why):\n  {listed}\n"
            if len(malformed) > self.max_malformed * count:
                raise DataError(said, "Repair them, or raise `max_malformed` to leave them out.")
            print(f"{self.name}: {said}  They are left out.", file=sys.stderr, flush=True)
        return rows

    def _meant(self, record: Mapping[str, Any]) -> bool:
        """Whether a row of a file that several environments share is one of this environment's."""
        return all(_at(record, path.split(".")) == value for path, value in self.where.items())

    @functools.cached_property
    def _pool(self) -> dict[str, Row]:
        return self._source(self.train, "train") if self.train else {}

    def _held_out(self, split: Split) -> dict[str, Row]:
        return self._validation if split == "validation" else self._test

    @functools.cached_property
    def _test(self) -> dict[str, Row]:
        if self.test:
            return _smallest(self._source(self.test, "test"), self.test_rows, "test")
        return _smallest(self._pool, self.test_rows, "test")

    @functools.cached_property
    def _validation(self) -> dict[str, Row]:
        named = self._source(self.validation, "validation") if self.validation else self._pool
        return _smallest(_without(named, self._test), self.validation_rows, "validation")

    def _source(self, source: str, split: Split) -> dict[str, Row]:
        """Row id -> row, the first of equal rows only."""
        rows: dict[str, Row] = {}
        for row in self.rows_of(load_numbered(source, split=split), source):
            rows.setdefault(row.id, row)
        return rows


def folder_of(source: str) -> Path | None:
    """Where the rows of a source lie; None for a source that is no file or folder."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    return path.parent if path.is_file() else None


def content_hash(data: Mapping[str, Any]) -> str:
    """What a row is known by over runs and machines, e.g. `3f2a9c0d51e7b846`."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode(errors="surrogatepass")).hexdigest()[:16]


def _at(record: Any, path: Sequence[str]) -> Any:
    """The value below a path of keys; None where there is none."""
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _without(rows: Mapping[str, Row], *others: Mapping[str, Row]) -> dict[str, Row]:
    return {key: row for key, row in rows.items() if not any(key in other for other in others)}


def _smallest(rows: Mapping[str, Row], count: int, salt: str) -> dict[str, Row]:
    """The `count` rows with the smallest salted hash, in the order they came."""
    if count >= len(rows):
        return dict(rows)
    chosen = set(sorted(rows, key=lambda key: hashlib.sha256(f"{salt}/{key}".encode()).digest())[:count])
    return {key: row for key, row in rows.items() if key in chosen}
