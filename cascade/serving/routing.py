"""Which replica a request goes to: the one that its group went to, else the least loaded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

GROUPS_REMEMBERED = 65_536
REQUESTS_AT_ONCE = 256  # at one replica; the others wait here, where every replica can still take them


@dataclass(eq=False)
class Lane:
    """What routing knows of a replica."""

    name: str
    live: bool = False
    tokens: int = 0  # of requests in progress: prompt and limit
    requests: int = 0

    @property
    def free(self) -> bool:
        """Whether it takes another request."""
        return self.live and self.requests < REQUESTS_AT_ONCE


class Routing:
    """Hands out lanes. Belongs to one event loop."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self._groups: OrderedDict[str, Lane] = OrderedDict()
        self._waiting: list[asyncio.Event] = []  # one a request, in the order of their coming

    def choose(self, group: str | None) -> Lane | None:
        """The lane that takes a request of `group` now; None when all are full or none is live."""
        known = self._groups.get(group) if group is not None else None
        lane = known if known and known.free else None
        if lane is None:
            lane = min((lane for lane in self.lanes if lane.free), key=lambda lane: lane.tokens, default=None)
        if lane is not None and group is not None:
            self._groups[group] = lane
            self._groups.move_to_end(group)
            if len(self._groups) > GROUPS_REMEMBERED:
                self._groups.popitem(last=False)
        return lane

    async def take(self, group: str | None, tokens: int, given_up: Callable[[], bool]) -> Lane | None:
        """A lane, loaded with the request; waits for one. None once `given_up()` is true (see `wake`)."""
        while not given_up():
            if (lane := self.choose(group)) is not None:
                lane.tokens += tokens
                lane.requests += 1
                return lane
            news = asyncio.Event()
            self._waiting.append(news)
            try:
                await news.wait()
            finally:
                if news in self._waiting:
                    self._waiting.remove(news)
                elif (task := asyncio.current_task()) and task.cancelling():
                    self._wake_one()  # whom this one was woken in place of
        return None

    def release(self, lane: Lane, tokens: int) -> None:
        """The request of `take` has left the lane."""
        lane.tokens -= tokens
        lane.requests -= 1
        self._wake_one()

    def set_live(self, lane: Lane, live: bool) -> None:
        """Whether requests go there."""
        lane.live = live
        self.wake()

    def wake(self) -> None:
        """Lets those who wait look again."""
        while self._waiting:
            self._wake_one()

    def _wake_one(self) -> None:
        if self._waiting:
            self._waiting.pop(0).set()
