"""Verdicts that are known already: of the same row and the same attempt."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter

from cascade.types import Attempt, Row, Verdict

Key = tuple[str, str, bytes]


def key_of(environment: str, row: Row, attempts: Sequence[Attempt]) -> Key:
    """What verdicts are known by: a hash stands for the texts, which may be long."""
    digest = hashlib.blake2b(digest_size=16)
    for attempt in attempts:
        for texts in (attempt.turns, attempt.reasoning, attempt.answers):
            sizes = []
            for text in texts:
                data = text.encode(errors="surrogatepass")
                sizes.append(len(data))
                digest.update(data)
            digest.update(repr(sizes).encode())
        digest.update(repr(_REST(attempt)).encode())
    return environment, row.id, digest.digest()


_REST = attrgetter(*(field.name for field in fields(Attempt) if field.name not in ("turns", "reasoning", "answers")))


class VerdictCache:
    """The verdicts used last, at most `entries` of them; 0 keeps none. Failures are never kept."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, list[Verdict]] = OrderedDict()

    def get(self, key: Key) -> list[Verdict] | None:
        """The verdicts on what is known by `key`."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def put(self, key: Key, verdicts: list[Verdict]) -> None:
        """Keeps verdicts, unless one of them is a failure."""
        if not self.entries or any(verdict.score is None for verdict in verdicts):
            return
        with self._lock:
            self._known[key] = verdicts
            self._known.move_to_end(key)
            while len(self._known) > self.entries:
                self._known.popitem(last=False)
