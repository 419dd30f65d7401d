"""Sessions that wait for the next turn of their rollout: a cache, whose entries what was said can make again."""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar


class Closes(Protocol):
    """What is kept."""

    def close(self) -> None:
        """Frees everything. Idempotent."""
        ...


S = TypeVar("S", bound=Closes)


class LiveSessions(Generic[S]):
    """At most `most` sessions, by the row and by the answers that led to their state. Any thread may call.

    Rollouts that began with the same answers have a session each under the same key; whose it was does not matter.
    The one that has waited longest makes room for another; those that have waited for `idle_s` are closed with the next
    call, and all when the process ends.
    """

    def __init__(self, most: int, idle_s: float) -> None:
        self._most = most
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, tuple[str, float, S]] = OrderedDict()  # oldest first
        self._numbers: dict[str, list[int]] = {}  # key -> numbers of its sessions
        self._last = 0
        self.remade = 0  # turns that were carried out again, since the start
        _every.add(self)

    def put(self, key: str, session: S) -> None:
        """Keeps a session until its next turn."""
        with self._lock:
            self._last += 1
            self._waiting[self._last] = (key, time.monotonic(), session)
            self._numbers.setdefault(key, []).append(self._last)
            old = self._old()
        _close(old)

    def take(self, keys: Sequence[str]) -> tuple[int, S] | None:
        """The number of the last of `keys` that a session waits under, and that session, which is the caller's now.

        None where there is none. The keys are of states one after the other: those behind it have to be made again.
        """
        with self._lock:
            old = self._old()
            at = next((n for n in range(len(keys) - 1, -1, -1) if keys[n] in self._numbers), None)
            found = None if at is None else (at, self._remove(self._numbers[keys[at]][-1]))
            self.remade += len(keys) - 1 - (at or 0)
        _close(old)
        return found

    def close(self) -> None:
        """Closes all that wait."""
        with self._lock:
            found = [self._remove(number) for number in list(self._waiting)]
        _close(found)

    def __len__(self) -> int:
        return len(self._waiting)

    def _old(self) -> list[S]:
        """Takes out what is too old or too much."""
        found = []
        while self._waiting:
            number, (_, since, _) = next(iter(self._waiting.items()))
            if len(self._waiting) <= self._most and time.monotonic() - since < self._idle_s:
                break
            found.append(self._remove(number))
        return found

    def _remove(self, number: int) -> S:
        key, _, session = self._waiting.pop(number)
        self._numbers[key].remove(number)
        if not self._numbers[key]:
            del self._numbers[key]
        return session


def keys_of(row: str, answers: Sequence[str]) -> list[str]:
    """The keys of the states before the first answer, behind it, and so on to behind the last."""
    digest = hashlib.sha256(row.encode("utf-8", "surrogatepass"))
    keys = [digest.hexdigest()]
    for answer in answers:
        text = answer.encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "little") + text)
        keys.append(digest.hexdigest())
    return keys


def _close(sessions: Sequence[Closes]) -> None:
    for session in sessions:
        session.close()


_every: weakref.WeakSet[LiveSessions[Any]] = weakref.WeakSet()


@atexit.register
def _close_every() -> None:
    for sessions in list(_every):
        sessions.close()


os.register_at_fork(after_in_child=_every.clear)  # a fork that ends must not close the rooms of who goes on
