"""Many replicas as one: a request goes to one of them, and to another when that one fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from cascade.errors import EngineError
from cascade.serving.client import Unreachable
from cascade.serving.copies import Weights
from cascade.serving.member import Member
from cascade.serving.routing import Routing

log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 20  # of one request at whatever replica, before its failures are its own fault
OUTAGE_POLL_S = 0.5


class Pool:
    """Belongs to one event loop. `supervision.py` revives members, `publishing.py` updates them."""

    def __init__(self, start_timeout_s: float) -> None:
        self.members: list[Member] = []
        self.start_timeout_s = start_timeout_s
        self.routing = Routing()
        self.weights: Weights | None = None
        self.updating = asyncio.Lock()  # held while weights of any member change
        self.paused = False
        self.counters = {"restarts": 0, "failovers": 0}
        self.outage: EngineError | None = None
        self._last_trouble: EngineError | None = None

    @property
    def current(self) -> Weights:
        """The weights that replicas should have. Raises `EngineError` before there are any."""
        if self.weights is None:
            raise EngineError("The rollout engine has no weights yet.", "Call `load` first.")
        return self.weights

    def set_members(self, members: list[Member]) -> None:
        """Before anything is asked of them."""
        self.members = members
        self.routing.lanes = [member.lane for member in members]

    async def request(
        self,
        group: str | None,
        tokens: int,
        call: Callable[[Member], Awaitable[T]],
        given_up: Callable[[], bool] = lambda: False,
    ) -> T | None:
        """What `call` returns at the first replica where it does not fail.

        Args:
            group: requests of one name go to one replica where possible; None: anywhere.
            tokens: what the request adds to a replica's load.
            call: raises `Unreachable` where another replica should be asked.
            given_up: looked at before every attempt; when true, None is returned.

        Raises `EngineError` when no replica has been live for the time of a start, and after `ATTEMPTS` failures.
        """
        last: EngineError | None = None
        for _ in range(ATTEMPTS):
            lane = await self.routing.take(group, tokens, lambda: given_up() or self.outage is not None)
            if lane is None:
                if given_up() or self.outage is None:
                    return None
                raise self.outage
            member = next(member for member in self.members if member.lane is lane)
            life = member.life
            try:
                answer = await call(member)
                member.strikes = 0
                return answer
            except Unreachable as error:
                last = error
                self.counters["failovers"] += 1
                self.distrust(member, life, error)
            finally:
                self.routing.release(lane, tokens)
        raise EngineError(
            f"One request failed at {ATTEMPTS} replicas in a row, at last: {last}",
            "Raise `rollout.request_timeout_s`, or look into the replicas' logs.",
        )

    def distrust(self, member: Member, life: int, error: EngineError) -> None:
        """Takes a member out until it has been looked at, unless it has been revived since `life`."""
        if life != member.life or not member.up:
            return
        log.warning("%s is taken out: %s", member.name, error.what)
        self._last_trouble = error
        member.strikes += 1
        member.up = member.lane.live = False
        member.trouble.set()

    async def each(self, call: Callable[[Member], Awaitable[None]]) -> None:
        """Calls every live member at once; those that fail are taken out."""

        async def one(member: Member) -> None:
            life = member.life
            try:
                await call(member)
            except Unreachable as error:
                self.distrust(member, life, error)

        await asyncio.gather(*(one(member) for member in self.members if member.up))

    async def set_paused(self, paused: bool) -> None:
        """Pauses or resumes all members, and those that join later."""
        async with self.updating:
            self.paused = paused
            await self.each(lambda member: member.client.pause() if paused else member.client.resume())

    async def watch_outage(self) -> None:
        """Ends the waiting of requests when no replica has been live for too long, or none will be again."""
        dark_since = time.monotonic()
        while True:
            await asyncio.sleep(OUTAGE_POLL_S)
            if any(member.lane.live for member in self.members):
                dark_since, self.outage = time.monotonic(), None
                continue
            lost = [member.lost for member in self.members if member.lost]
            if len(lost) == len(self.members):
                self.outage = lost[0]
            elif time.monotonic() - dark_since > self.start_timeout_s:
                self.outage = self._nobody_live(time.monotonic() - dark_since)
            if self.outage:
                self.routing.wake()

    async def close(self) -> None:
        """Ends the servers that we started, and the connections to all."""
        for member in self.members:
            member.up = member.lane.live = False
        await asyncio.gather(*(member.process.stop() for member in self.members if member.process))
        for member in self.members:
            with suppress(OSError):
                await member.client.close()
        self.set_members([])

    def _nobody_live(self, waited_s: float) -> EngineError:
        waits = "; ".join(f"{m.name} {'has older weights' if m.up else 'does not answer'}" for m in self.members)
        return EngineError(
            f"Requests waited {waited_s:.0f} s for a replica: {waits}. The last failure: {self._last_trouble}",
            "Look into the logs; raise `rollout.start_timeout_s`, or set `rollout.restart_copy_every=1`.",
        )
