"""Replies that judges gave, kept for equal questions: in a SQLite file, or the latest ones in memory.

The file has a rollback journal, not WAL, whose shared memory does not work on the network file systems runs lie on. It
may be used by several processes, and a kill of one loses nothing. Writes are not synced, as a sync takes longer than
all else of a question: a power cut may damage the file. One that cannot be read or written costs questions asked again,
not verdicts.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cascade.errors import ConfigError
from cascade.judging.endpoint import Answer

LOCK_TIMEOUT_S = 5.0
IN_MEMORY = 10_000  # replies


class Cache(Protocol):
    """Safe to use from several threads."""

    @property
    def errors(self) -> int:
        """Times that it could not be read or written."""
        ...

    def get(self, key: str) -> Answer | None: ...

    def put(self, key: str, answer: Answer) -> None: ...

    def close(self) -> None: ...


class MemoryCache:
    """The latest `size` replies."""

    errors = 0

    def __init__(self, size: int = IN_MEMORY) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def get(self, key: str) -> Answer | None:
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        with self._lock:
            self._answers[key] = answer
            if len(self._answers) > self._size:
                self._answers.popitem(last=False)

    def close(self) -> None:
        pass


class FileCache:
    """All replies, in a SQLite file. Raises `ConfigError` for a file that is something else."""

    def __init__(self, path: str) -> None:
        self.errors = 0
        self._lock = threading.Lock()
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            said = f"The judge's cache {path} cannot be opened: {error}."
            raise ConfigError(said, "Name another file, or delete it if it was damaged.") from None

    def get(self, key: str) -> Answer | None:
        with self._lock:
            try:
                found = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                return _answer(*json.loads(found[0])) if found else None
            except (sqlite3.Error, ValueError, TypeError):
                self.errors += 1
                return None

    def put(self, key: str, answer: Answer) -> None:
        reply = json.dumps([answer.text, answer.tokens_in, answer.tokens_out, answer.last_tokens])
        with self._lock:
            try:
                self._database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))
            except sqlite3.Error:
                self.errors += 1

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _answer(text: str, tokens_in: int, tokens_out: int, last_tokens: Sequence[Sequence[Any]] = ()) -> Answer:
    """A reply as it was; those of older files have no candidates."""
    return Answer(text, tokens_in, tokens_out, tuple(tuple((t, p) for t, p in token) for token in last_tokens))
