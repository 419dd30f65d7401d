"""Threads that take chunks from one queue: what worker processes here and actors on a cluster share."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cascade.verification.calls import Chunk, Item
from cascade.verification.meter import Meter
from cascade.verification.outcomes import no_verdict

CLOSED = "the verifiers were closed"


class Hand(ABC):
    """Whoever scores chunks, one at a time, in a thread of its own."""

    @abstractmethod
    def score(self, chunk: Chunk) -> list[Chunk]:
        """Settles the items of a chunk; what it could not settle comes back, for another hand."""

    @abstractmethod
    def end(self) -> None:
        """Ends what it holds; called in its thread."""

    @abstractmethod
    def interrupt(self) -> None:
        """Ends a chunk in progress early; called from another thread."""

    def rest(self) -> None:  # noqa: B027  most need none
        """Before the next chunk: gets ready for one. Called in its thread."""


class Crew:
    """Hands that work until `close`. They start with the first chunk."""

    def __init__(self, hands: Sequence[Hand], meter: Meter) -> None:
        self.hands = hands
        self.meter = meter
        self.closed = False
        self._queue: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def share(self, items: int, most: int) -> int:
        """Items a chunk: few enough to keep every hand busy to the end, at most `most`."""
        return max(1, min(most, items // (4 * len(self.hands))))

    def submit(self, chunk: Chunk) -> None:
        """Queues a chunk."""
        with self._lock:
            if not self.closed:
                self._begin()
                self._queue.put(chunk)
                return
        _refuse(chunk.items, CLOSED)

    def close(self) -> None:
        """Ends all hands, with what they are doing. Idempotent."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        for _ in self._threads:
            self._queue.put(None)
        for hand in self.hands:
            hand.interrupt()
        for thread in self._threads:
            thread.join()
        while not self._queue.empty():
            left = self._queue.get()
            _refuse(left.items if left else (), CLOSED)

    def _begin(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, args=(hand,), name=f"verifier-{number}", daemon=True)
                for number, hand in enumerate(self.hands)
            ]
            for thread in self._threads:
                thread.start()

    def _work(self, hand: Hand) -> None:
        try:
            while True:
                unfit = _unfit(hand)
                if (chunk := self._queue.get()) is None:
                    return
                began = time.monotonic()
                self.meter.queued(began - chunk.created)
                if unfit or self.closed or chunk.abandoned:
                    _refuse(chunk.items, unfit or CLOSED)
                    continue
                self._settle(hand, chunk)
                self.meter.worked(time.monotonic() - began)
        finally:
            hand.end()

    def _settle(self, hand: Hand, chunk: Chunk) -> None:
        try:
            back = hand.score(chunk)
        except Exception:  # noqa: BLE001  a hand that fails must not leave a caller waiting for ever
            _refuse(chunk.items, traceback.format_exc())
            return
        for left in back:
            self._queue.put(left)


def _unfit(hand: Hand) -> str:
    """Why a hand cannot take a chunk, if it cannot."""
    try:
        hand.rest()
    except Exception:  # noqa: BLE001  see `_settle`
        return traceback.format_exc()
    return ""


def _refuse(items: Sequence[Item], why: str) -> None:
    for item in items:
        item.settle_all(no_verdict(why))
