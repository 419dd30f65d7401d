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

    def score(self, data: bytes) -> tuple[list[list[PlainVerdict] | None], dict[str, int]]:
        """The verdicts on every item of a frame, None for those that another hand may have; and what was counted."""
        _, name, rows, told = pickle.loads(memoryview(data)[HEADER.size :])
        waiting = Waiting()
        known = [Row(key, domain, name, content) for key, domain, content in rows]
        items = [Item(known[row], [Attempt(*attempt) for attempt in attempts], waiting) for row, attempts in told]
        again = items
        while again:
            again = [back for back in self.hand.score(Chunk(name, again)) if back.tries]
        found = [None if item.verdicts is None else [plain(verdict) for verdict in item.verdicts] for item in items]
        return found, self.meter.counts()
