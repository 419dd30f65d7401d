"""One update of all replicas: pause, start, buckets, finish with the new version, resume."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.serving.arguments import BACKENDS
from cascade.serving.copies import Weights
from cascade.serving.member import Member
from cascade.serving.pool import Pool
from cascade.serving.supervision import bring
from cascade.serving.transports import Transport


class Publication:
    """Runs in the pool's event loop, from `begin` to `finish` or `abandon`.

    A member that fails on the way has weights in pieces: it is killed, revived from the last good weights, and the
    others go on.
    """

    def __init__(self, pool: Pool, weights: Weights, transport: Transport | None) -> None:
        self.pool = pool
        self.weights = weights
        self.transport = transport
        self.members: list[Member] = []
        self.first: EngineError | None = None
        self._holds = False  # the lock on updates

    async def begin(self, *, opens: bool = True) -> None:
        """Waits for other updates to end, pauses all members that answer and `opens` their weights."""
        await self.pool.updating.acquire()
        self._holds = True
        self.members = [member for member in self.pool.members if member.up]
        if opens:
            await self.each(self._open)

    async def send(self, staged: Any) -> None:
        """Hands one staged bucket to all members."""
        transport = self.transport
        if transport is None:
            raise ValueError("buckets need a transport")
        await self.each(lambda member: transport.send(member.client, staged))

    async def update(self, update_info: dict[str, Any]) -> None:
        """Hands the same information to all members."""
        await self.each(lambda member: member.client.update(update_info))

    async def finish(self) -> int:
        """Closes the members' weights under their new name and lets them go on; returns how many have them.

        Raises `EngineError` with the first failure when it is none; then the replicas return to the last good weights.
        """
        await self.each(self._close)
        return self.commit()

    def commit(self) -> int:
        """Makes the weights those that all replicas should have; see `finish`."""
        if not self.members:
            cause = self.first or "none was up"
            raise EngineError(f"No replica took over version {self.weights.version}: {cause}", "Mend that first.")
        self.pool.weights = self.weights
        for member in self.members:
            self.pool.routing.set_live(member.lane, member.up)
        self.end()
        return len(self.members)

    async def abandon(self, error: EngineError) -> None:
        """Ends an update that is not finished: its members are revived, from the last good weights where need be."""
        for member in self.members:
            self._fail(member, error)
        self.end()

    def end(self) -> None:
        """Lets other updates begin. Idempotent."""
        if self._holds:
            self._holds = False
            self.pool.updating.release()

    async def _open(self, member: Member) -> None:
        await member.client.pause()
        if self.transport is not None:
            life = f"{member.life}/{member.process.starts if member.process else 0}"
            await self.transport.join(member.client, life)
        member.broken = True
        await member.client.start_update()

    async def _close(self, member: Member) -> None:
        await member.client.finish_update(self.weights.label)
        member.broken = False
        if not self.pool.paused:
            await member.client.resume()

    async def each(self, call: Callable[[Member], Awaitable[None]]) -> None:
        """Calls all members at once, and goes on with those that did not fail."""

        async def one(member: Member) -> Member | None:
            try:
                await call(member)
                return member if member.up else None
            except EngineError as error:
                self._fail(member, error)
                return None

        kept = await asyncio.gather(*(one(member) for member in self.members))
        self.members = [member for member in kept if member is not None]

    def _fail(self, member: Member, error: EngineError) -> None:
        self.first = self.first or error
        self.pool.distrust(member, member.life, error)
        member.trouble.set()
        if member.broken and member.process is not None:
            member.process.kill()


async def reload_members(pool: Pool, weights: Weights, rollout: RolloutConfig) -> None:
    """Hands weights that are on disk to all members. Raises `EngineError` when no member takes them over."""
    publication = Publication(pool, weights, None)
    files = [str(file) for file in weights.files() or ()]
    try:
        await publication.begin(opens=BACKENDS[rollout.transport] == "cascade")
        if BACKENDS[rollout.transport] == "cascade":
            await publication.update({"kind": "files", "paths": files})
            await publication.finish()
        else:  # vLLM's own backends read no files
            await publication.each(lambda member: bring(member, weights, rollout))
            publication.commit()
    except BaseException as error:
        await publication.abandon(EngineError(f"Loading {weights.base} ended with {error!r}.", "See that error."))
        raise
