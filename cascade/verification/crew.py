"""Threads that take chunks from one fair queue: what worker processes here and actors on a cluster share."""

from __future__ import annotations

import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from cascade.verification.calls import Chunk, Item
from cascade.verification.costs import Costs
from cascade.verification.fair_queue import CHUNK, FairQueue, Line, waited_s
from cascade.verification.meter import Meter
from cascade.verification.outcomes import no_verdict

CLOSED = "the verifiers were closed"


class Hand(ABC):
    """Whoever scores chunks, one at a time, in a thread of its own."""

    @abstractmethod
    def score(self, chunk: Chunk) -> list[Item]:
        """Settles the items of a chunk; what it could not settle comes back, for another hand.

        Items that somebody else settles meanwhile need no verdict any more: it ends what it does for them.
        """

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

    def __init__(self, hands: Sequence[Hand], meter: Meter, costs: Costs) -> None:
        self.hands = hands
        self.meter = meter
        self.queue = FairQueue(costs)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def closed(self) -> bool:
        return self.queue.closed

    def line(self, counts: Mapping[str, int]) -> Line:
        """A line for a call that asks so much of every environment: chunks that keep every hand busy to the end."""
        return Line({name: max(1, min(CHUNK, count // (4 * len(self.hands)))) for name, count in counts.items()})

    def submit(self, line: Line, environment: str, items: Sequence[Item]) -> None:
        """Queues items."""
        with self._lock:
            if not self.closed:
                self._begin()
        if not self.queue.put(line, environment, items):
            _refuse(items, CLOSED)

    def close(self) -> None:
        """Ends all hands, with what they are doing. Idempotent."""
        with self._lock:
            if self.closed:
                return
            left = self.queue.close()
        for hand in self.hands:
            hand.interrupt()
        for thread in self._threads:
            thread.join()
        _refuse(left, CLOSED)

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
                if (taken := self.queue.take()) is None:
                    return
                began = time.monotonic()
                self.meter.queued(waited_s(taken.items), len(taken.items))
                if unfit:
                    _refuse(taken.items, unfit)
                    continue
                back = _scored(hand, taken)
                self.meter.worked(time.monotonic() - began)
                self.meter.ran(verdicts_s := _verdicts_s(taken.items), len(taken.items))
                self.queue.done(taken, verdicts_s)
                if back and not self.queue.put(taken.line, taken.environment, back, first=True):
                    _refuse(back, CLOSED)
        finally:
            hand.end()


def _scored(hand: Hand, chunk: Chunk) -> list[Item]:
    """What comes back from a hand."""
    try:
        return hand.score(chunk)
    except Exception:  # noqa: BLE001  a hand that fails must not leave a caller waiting for ever
        _refuse(chunk.items, traceback.format_exc())
        return []


def _verdicts_s(items: Sequence[Item]) -> float:
    """Seconds that verdicts took, without those for starting a worker."""
    return sum(verdict.wall_s for item in items for verdict in item.verdicts or ())


def _unfit(hand: Hand) -> str:
    """Why a hand cannot take a chunk, if it cannot."""
    try:
        hand.rest()
    except Exception:  # noqa: BLE001  see `_scored`
        return traceback.format_exc()
    return ""


def _refuse(items: Sequence[Item], why: str) -> None:
    for item in items:
        item.settle_all(no_verdict(why))
