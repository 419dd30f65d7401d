"""Replicas brought to life and kept there: started, restarted when they die, and handed the current weights."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError
from cascade.serving.arguments import BACKENDS, served_arguments
from cascade.serving.client import Unreachable
from cascade.serving.copies import Weights
from cascade.serving.member import Member
from cascade.serving.pool import Pool
from cascade.serving.replica import Replica

log = logging.getLogger(__name__)
FAILED_STARTS = 3  # in a row, then a replica is given up
STRIKES = 2  # requests that fail in a row at a server that says it is well, then it is restarted
POLL_S = 0.5


class Supervisor:
    """Looks after the members of a pool, in its event loop.

    One process `leads`: it starts, restarts and updates servers. The others only wait until they are well again.
    """

    def __init__(self, pool: Pool, policy: PolicyConfig, rollout: RolloutConfig, *, leads: bool) -> None:
        self.pool = pool
        self.policy = policy
        self.rollout = rollout
        self.leads = leads
        self.max_tokens = 0  # of prompt and completion, for servers that are started
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Brings all members to life at once and looks after them from then on. Raises what the first failure was."""
        outcomes = await asyncio.gather(
            *(self._begin_one(member) for member in self.pool.members), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        self._tasks = [asyncio.create_task(self._look_after(member)) for member in self.pool.members]
        self._tasks.append(asyncio.create_task(self.pool.watch_outage()))

    async def begin_anew(self, weights: Weights) -> None:
        """Starts all servers again, from the folder of `weights`."""
        await self.end()
        self.pool.weights = weights
        for member in self.pool.members:
            member.broken, member.lost = True, None
        await self.begin()

    async def end(self) -> None:
        """Looks after nobody any more. Servers go on."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def _begin_one(self, member: Member) -> None:
        if member.process is None and not await member.client.healthy():
            raise EngineError(f"{member.name} does not answer.", "Start it, or correct `rollout.urls`.")
        await self._revive(member)

    async def _look_after(self, member: Member) -> None:
        while True:
            await member.trouble.wait()
            member.trouble.clear()
            failures: list[EngineError] = []
            while not member.up:
                try:
                    await self._revive(member)
                except EngineError as error:
                    failures.append(error)
                    if member.process is None:
                        await asyncio.sleep(POLL_S)
                    elif len(failures) >= FAILED_STARTS:
                        log.error("%s is given up: %s", member.name, failures[0])
                        member.lost = failures[0]
                        self.pool.routing.wake()
                        return

    async def _revive(self, member: Member) -> None:
        """Makes a member answer with the current weights. Raises `EngineError` when it does not."""
        member.up = member.lane.live = False
        if member.process is not None:
            ill = member.broken or not member.process.running or member.strikes >= STRIKES
            if ill or not await member.client.healthy():
                await self._restart(member)
        elif not await member.client.healthy():
            raise Unreachable(f"{member.name} does not answer.", "Start it again.")
        elif member.broken and self.leads:
            await self._restarted_by_its_owner(member)
        async with self.pool.updating:
            await self._join(member)

    async def _restart(self, member: Member) -> None:
        process, weights = member.process, self.pool.current
        if process is None:
            raise ValueError("only what this process started is restarted")
        if process.running:
            process.kill()
            await process.end()
        member.started_from = _start_folder(weights, self.rollout)
        if process.starts:
            self.pool.counters["restarts"] += 1
        start = process.starts + 1

        def on_end(how: str) -> None:
            if process.starts == start:
                self.pool.distrust(member, member.life, process.failure(how))
                member.trouble.set()

        arguments = served_arguments(member.started_from, process.port, self.max_tokens, self.policy, self.rollout)
        process.start(arguments, on_end)
        await self._answers(member, process)
        member.broken, member.strikes, member.logit_scale = False, 0, 1.0

    async def _answers(self, member: Member, process: Replica) -> None:
        began = time.monotonic()
        while not await member.client.healthy():
            if not process.running:
                raise process.failure("did not start")
            if time.monotonic() - began > self.rollout.start_timeout_s:
                process.kill()
                raise process.failure(f"did not start in {self.rollout.start_timeout_s:.0f} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(process.end(), POLL_S)

    async def _restarted_by_its_owner(self, member: Member) -> None:
        if await member.client.weight_version() == self.pool.current.label:
            raise Unreachable(f"{member.name} has weights in pieces.", "Restart it.")
        member.broken, member.logit_scale = False, 1.0

    async def _join(self, member: Member) -> None:
        """With the update lock held: brings the member to the current weights and lets requests go there.

        Where the current weights are not on disk it waits, up but not live, for the next publish.
        """
        weights = self.pool.current
        if member.broken:  # since it was found well
            raise Unreachable(f"{member.name} has weights in pieces.", "Restart it.")
        if await member.client.weight_version() != weights.label:
            if not self.leads:
                raise Unreachable(f"{member.name} does not have weights {weights.label} yet.", "Wait.")
            await bring(member, weights, self.rollout)
        await (member.client.pause() if self.pool.paused else member.client.resume())
        if member.process is not None and not member.process.running:
            raise member.process.failure("ended while it took over weights")
        member.life += 1
        member.up, self.pool.outage = True, None
        self.pool.routing.set_live(member.lane, await member.client.weight_version() == weights.label)


async def bring(member: Member, weights: Weights, rollout: RolloutConfig) -> None:
    """Hands `weights` to a member from disk; does nothing where only older ones are there.

    A failure leaves the member `broken`.
    """
    files = weights.files()
    if files is None:
        return
    client = member.client
    if member.process is not None and member.started_from == files[0].parent:
        await client.name_weights(weights.label)
        return
    member.broken = True
    await client.pause()
    if BACKENDS[rollout.transport] == "cascade":
        await client.start_update()
        await client.update({"kind": "files", "paths": [str(file) for file in files]})
        await client.finish_update(weights.label)
    else:
        await client.collective_rpc("reload_weights", weights_path=str(files[0].parent))
        await client.name_weights(weights.label)
    await client.resume()
    await client.collective_rpc("set_logit_scale", 1.0)  # an earlier run may have left another one
    member.logit_scale, member.broken = 1.0, False


def _start_folder(weights: Weights, rollout: RolloutConfig) -> Path:
    """The folder a server starts from: the loaded one, or for vLLM's own backends, which read no files, the copy."""
    if BACKENDS[rollout.transport] != "cascade" and weights.copy is not None:
        return weights.copy
    return weights.base
