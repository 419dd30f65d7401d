"""What waits for workers, in one line a call: whose call has had least of the workers' time is served next.

So a call of five answers is served at once beside one of two thousand slow programs, which loses no more by it than the
time of those five. It is start-time fair queueing (Goyal, Vin and Cheng, 1996) of calls with equal weights.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cascade.verification.calls import Chunk, Item
from cascade.verification.costs import Costs

CHUNK = 64  # items at most
CHUNK_CHARACTERS = 2**22  # of their texts, unless a single item has more
CHUNK_S = 0.5  # what a chunk should take at most: as long others may have to wait for a worker
AHEAD = 1024  # items of a call that are in the queue; it hands in the next ones when these are taken


@dataclass(slots=True, eq=False)
class Line:
    """What one call has in the queue."""

    shares: Mapping[str, int]  # environment -> items a chunk at most
    items: dict[str, deque[Item]] = field(default_factory=dict)  # by environment, none of them empty
    had_s: float = 0.0  # of the workers' time, and what it missed before it came

    def __len__(self) -> int:
        return sum(map(len, self.items.values()))


@dataclass(slots=True)
class Taken(Chunk):
    """A chunk, and where it came from."""

    line: Line
    charged_s: float  # what it was thought to take


class FairQueue:
    """Lines of items. Any thread may call; callers wait where they have `AHEAD` items here, workers where none are."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.closed = False
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._lines: list[Line] = []  # those with items
        self._now_s = 0.0  # what the line that was served last had had

    def put(self, line: Line, environment: str, items: Sequence[Item], first: bool = False) -> bool:
        """Queues items, `first` or last of the line; False where the queue is closed."""
        now = time.monotonic()
        with self._lock:
            if self.closed:
                return False
            for item in items:
                item.since = now
            if line not in self._lines:
                line.had_s = max(line.had_s, self._now_s)  # time in which it asked for nothing is not made up for
                self._lines.append(line)
            queued = line.items.setdefault(environment, deque())
            if first:
                queued.extendleft(reversed(items))
            else:
                queued.extend(items)
            self._filled.notify_all()
        return True

    def room(self, line: Line) -> bool:
        """Whether the line may have more items; without end where the queue is closed."""
        return self.closed or len(line) < AHEAD

    def wait_for_room(self, line: Line, seconds: float | None = None) -> None:
        """Returns when half of what a call may have here has been taken."""
        with self._lock:
            self._emptied.wait_for(lambda: self.closed or len(line) <= AHEAD // 2, seconds)

    def take(self) -> Taken | None:
        """The next chunk, as soon as there is one; None when the queue is closed."""
        with self._lock:
            while not self.closed:
                while self._lines:
                    if (taken := self._cut(min(self._lines, key=lambda line: line.had_s))) is not None:
                        return taken
                self._filled.wait()
        return None

    def done(self, taken: Taken, seconds: float) -> None:
        """The verdicts of a chunk that was taken took so long."""
        self.costs.learn(taken.environment, len(taken.items), seconds)
        with self._lock:
            taken.line.had_s += seconds - taken.charged_s

    def close(self) -> list[Item]:
        """Lets nothing in or out any more; returns what was waiting."""
        with self._lock:
            self.closed = True
            left = [item for line in self._lines for items in line.items.values() for item in items]
            self._lines.clear()
            self._filled.notify_all()
            self._emptied.notify_all()
        return left

    def _cut(self, line: Line) -> Taken | None:
        """The next chunk of a line, of its costliest environment: what is quick fills the gaps at the end.

        Items that nobody needs any more are left out; None where no other was there.
        """
        name = max(line.items, key=self.costs.of)
        queued, items, characters = line.items[name], [], 0
        most = min(line.shares.get(name, CHUNK), self.costs.fit(name, CHUNK_S))
        while queued and len(items) < most and characters <= CHUNK_CHARACTERS:
            item = queued.popleft()
            if item.verdicts is None:
                items.append(item)
                characters += item.characters
        if not queued:
            del line.items[name]
        if not line.items:
            self._lines.remove(line)
        self._emptied.notify_all()
        if not items:
            return None
        self._now_s, charged_s = max(self._now_s, line.had_s), len(items) * self.costs.of(name)
        line.had_s += charged_s
        return Taken(name, items, line, charged_s)


def waited_s(items: Sequence[Item]) -> float:
    """Seconds that items have waited, in all."""
    now = time.monotonic()
    return sum(now - item.since for item in items)
