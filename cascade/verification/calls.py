"""A call of `verify` in pieces: items that are judged alone, and chunks of them that travel together."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from cascade.types import Attempt, Row, Verdict
from cascade.verification.frames import frame

UNPICKLABLE = (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError)


class Waiting:
    """How many items a caller still waits for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._left = 1  # the caller itself, who may not be done asking
        self._arrivals = 0
        self._watched = False

    def expect(self) -> None:
        """There is one more."""
        with self.lock:
            self._left += 1

    def arrived(self) -> None:
        """One of them is settled."""
        with self.lock:
            self._left -= 1
            self._arrivals += 1
            if self._left == 0 or self._watched:
                self._changed.notify_all()

    def wait(self, look: Callable[[], None] | None = None) -> None:
        """Returns when all are settled. Called once, by the caller; `look` is called whenever some have arrived."""
        self._watched = look is not None
        self.arrived()
        while True:
            seen = self._arrivals
            if look is not None:
                look()
            with self.lock:
                if self._left == 0:
                    return
                if self._arrivals == seen or look is None:
                    self._changed.wait()


@dataclass(slots=True, eq=False)
class Item:
    """What is judged at once: an attempt, or a group of them where the environment compares them.

    Nobody needs it any more once it is settled: whoever has it in hand or in a queue lets it go.
    """

    row: Row
    attempts: Sequence[Attempt]
    waiting: Waiting
    characters: int = 0  # of its texts
    wanted: int = 1  # by so many jobs
    since: float = 0.0  # when it was queued, on the monotonic clock
    verdicts: list[Verdict] | None = None
    deaths: int = 0  # of workers, over it
    tries: int = 0  # that failed for reasons that are not its own

    def settle(self, verdicts: list[Verdict]) -> bool:
        """The verdicts, unless there are some already; whether they count."""
        with self.waiting.lock:
            if self.verdicts is not None:
                return False
            self.verdicts = verdicts
        self.waiting.arrived()
        return True

    def settle_all(self, verdict: Verdict) -> bool:
        """The same verdict on all attempts."""
        return self.settle([verdict] * len(self.attempts))


@dataclass(slots=True)
class Chunk:
    """Items of one environment that travel together."""

    environment: str
    items: list[Item]


def packed(name: str, items: MutableSequence[Item]) -> bytes:
    """The frame that tells a worker to score items; those it cannot take along are settled and taken out."""
    try:
        return _frame(name, items)
    except UNPICKLABLE:
        every = list(items)
        items.clear()
    for item in every:
        try:
            _frame(name, [item])
            items.append(item)
        except UNPICKLABLE as error:
            item.settle_all(Verdict(None, "data", f"row {item.row.id} cannot be sent to a worker process: {error}"))
    return _frame(name, items)


def _frame(name: str, items: Sequence[Item]) -> bytes:
    """Every row once. Raises `UNPICKLABLE`."""
    rows: dict[str, int] = {}
    sent: list[tuple[str, str, Any]] = []
    told = []
    for item in items:
        if item.row.id not in rows:
            rows[item.row.id] = len(sent)
            sent.append(plain_row(item.row))
        told.append((rows[item.row.id], [plain_attempt(attempt) for attempt in item.attempts]))
    return frame(("score", name, sent, told))


def plain_row(row: Row) -> tuple[str, str, Any]:
    """A row without what the worker knows already."""
    return row.id, row.domain, row.data


def plain_attempt(attempt: Attempt) -> tuple[Any, ...]:
    """An attempt as a tuple of its fields, which pickles faster."""
    return _ATTEMPT(attempt)


_ATTEMPT = attrgetter(*(field.name for field in fields(Attempt)))
