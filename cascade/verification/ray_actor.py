"""What runs in a Ray actor: one worker process, on whichever node that is. Imports no Ray itself."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from cascade.types import Attempt, Row
from cascade.verification.calls import Chunk, Item, Waiting
from cascade.verification.frames import HEADER
from cascade.verification.hand import Bound, ProcessHand
from cascade.verification.meter import Meter
from cascade.verification.outcomes import PlainVerdict, plain


class ActorHand:
    """A hand at the other end of `RayHand`."""

    def __init__(self, bounds: Mapping[str, Bound], memory_gib: float, retries: int) -> None:
        self.meter = Meter(1)
        self.hand = ProcessHand(bounds, self.meter, memory_gib, retries)

    def ping(self) -> bool:
        """Says that it is there."""
        return True

    def score(self, data: bytes) -> tuple[list[list[PlainVerdict]], dict[str, int]]:
        """The verdicts on every item of a frame, and what was counted meanwhile."""
        _, name, rows, told = pickle.loads(memoryview(data)[HEADER.size :])
        waiting = Waiting()
        known = [Row(key, domain, name, content) for key, domain, content in rows]
        items = [Item(known[row], [Attempt(*attempt) for attempt in attempts], waiting) for row, attempts in told]
        left = [Chunk(name, items)]
        while left:
            left = [back for chunk in left for back in self.hand.score(chunk)]
        return [[plain(verdict) for verdict in item.verdicts or []] for item in items], self.meter.counts()
