"""A request goes to one replica after the other until one answers, and a group stays together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cascade.errors import EngineError
from cascade.serving.client import Client, Refused, Unreachable
from cascade.serving.member import Member
from cascade.serving.pool import ATTEMPTS, Pool
from cascade.serving.routing import REQUESTS_AT_ONCE, Lane, Routing
from cascade.serving.scale_gate import ScaleGate

DOWN = Unreachable("it is down.", "start it.")


def lanes(count: int, live: bool = True) -> list[Lane]:
    return [Lane(f"replica {i}", live) for i in range(count)]


def pool(count: int = 2, start_timeout_s: float = 1.0) -> Pool:
    """Of replicas that are live and never asked."""
    made = Pool(start_timeout_s)
    made.set_members([Member(Client("http://127.0.0.1:9", 1.0), lane, up=True) for lane in lanes(count)])
    return made


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


def test_the_least_loaded_replica_is_chosen_and_a_group_stays_with_its_own() -> None:
    async def work() -> None:
        routing = Routing()
        routing.lanes = lanes(3)
        first = [await routing.take(f"g{i}", 10 * (i + 1), lambda: False) for i in range(3)]
        assert first == routing.lanes
        assert await routing.take("g3", 5, lambda: False) is routing.lanes[0]  # 15 tokens now
        assert await routing.take("g2", 100, lambda: False) is routing.lanes[2]  # the fullest, but its group's
        assert await routing.take(None, 1, lambda: False) is routing.lanes[0]
        routing.lanes[2].live = False
        moved = await routing.take("g2", 1, lambda: False)
        assert moved is not routing.lanes[2]
        routing.lanes[2].live = True
        assert routing.choose("g2") is moved

    run(work)


def test_requests_beyond_what_replicas_take_wait_their_turn() -> None:
    async def work() -> None:
        routing = Routing()
        routing.lanes = lanes(1)
        for _ in range(REQUESTS_AT_ONCE):
            await routing.take(None, 1, lambda: False)
        order: list[int] = []

        async def late(number: int) -> None:
            await routing.take(None, 1, lambda: False)
            order.append(number)

        waiting = [asyncio.create_task(late(number)) for number in range(3)]
        await asyncio.sleep(0)
        routing.release(routing.lanes[0], 1)
        await waiting[0]
        waiting[1].cancel()
        routing.release(routing.lanes[0], 1)  # meant for a request that is gone: the next one gets it
        await waiting[2]
        assert order == [0, 2]

    run(work)


def test_a_failing_request_is_answered_by_another_replica_once() -> None:
    async def work() -> None:
        made, asked = pool(2), []

        async def call(member: Member) -> str:
            asked.append(member.name)
            await asyncio.sleep(0)
            if member is made.members[0]:
                raise DOWN
            return member.name

        answers = await asyncio.gather(*(made.request(f"g{i}", 1, call) for i in range(40)))
        assert answers == ["replica 1"] * 40
        assert asked.count("replica 1") == 40
        assert 1 <= asked.count("replica 0") <= 20
        assert made.counters["failovers"] == asked.count("replica 0")
        assert not made.members[0].up
        assert made.members[0].trouble.is_set()
        assert [(lane.tokens, lane.requests) for lane in made.routing.lanes] == [(0, 0)] * 2

    run(work)


def test_what_failed_in_an_earlier_life_does_not_take_a_revived_replica_out() -> None:
    async def work() -> None:
        made = pool(1)
        made.members[0].life = 2
        made.distrust(made.members[0], 1, DOWN)
        assert made.members[0].up
        made.distrust(made.members[0], 2, DOWN)
        assert not made.members[0].up

    run(work)


def test_a_refused_request_is_not_repeated() -> None:
    async def work() -> None:
        made, asked = pool(2), []

        async def call(member: Member) -> None:
            asked.append(member)
            raise Refused("too long.", "shorten it.")

        with pytest.raises(Refused):
            await made.request(None, 1, call)
        assert len(asked) == 1
        assert all(member.up for member in made.members)

    run(work)


def test_a_request_that_fails_everywhere_says_so() -> None:
    async def work() -> None:
        made = pool(1)

        async def call(member: Member) -> None:
            member.up = member.lane.live = True  # revived at once
            raise DOWN

        made.distrust = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(EngineError, match=rf"failed at {ATTEMPTS} replicas in a row, at last: it is down"):
            await made.request(None, 1, call)

    run(work)


def test_waiting_for_a_replica_has_a_deadline_that_says_for_whom() -> None:
    async def work() -> None:
        made = pool(2, start_timeout_s=0.6)
        made.distrust(made.members[0], 0, DOWN)
        made.members[1].lane.live = False  # up, with older weights
        watch = asyncio.create_task(made.watch_outage())
        with pytest.raises(EngineError) as caught:
            await made.request(None, 1, _never)
        assert "replica 0 does not answer; replica 1 has older weights" in caught.value.what
        assert "it is down" in caught.value.what
        made.routing.set_live(made.members[1].lane, True)
        await asyncio.sleep(0.7)
        assert await made.request(None, 1, _name) == "replica 1"
        watch.cancel()

    run(work)


def test_waiting_ends_with_the_first_failure_when_every_replica_is_given_up() -> None:
    async def work() -> None:
        made = pool(1, start_timeout_s=1e6)
        made.distrust(made.members[0], 0, DOWN)
        made.members[0].lost = EngineError("vLLM replica 0 did not start.", "Read its log.")
        watch = asyncio.create_task(made.watch_outage())
        with pytest.raises(EngineError, match="replica 0 did not start"):
            await made.request(None, 1, _never)
        watch.cancel()

    run(work)


def test_a_request_that_is_given_up_while_it_waits_returns_nothing() -> None:
    async def work() -> None:
        made, given_up = pool(1), []
        made.distrust(made.members[0], 0, DOWN)
        waiting = asyncio.create_task(made.request(None, 1, _never, lambda: bool(given_up)))
        await asyncio.sleep(0)
        given_up.append(True)
        made.routing.wake()
        assert await waiting is None

    run(work)


def test_one_logit_scale_at_a_time_and_nobody_starves() -> None:
    async def work() -> None:
        gate, inside, seen = ScaleGate(), [], []

        async def user(scale: float) -> None:
            for _ in range(20):
                async with gate.at(scale):
                    inside.append(scale)
                    assert len(set(inside)) == 1
                    seen.append(scale)
                    await asyncio.sleep(0)
                    inside.remove(scale)

        await asyncio.gather(*(user(scale) for scale in (1.0, 1.0, 1.0, 2.0, 0.5)))
        assert len(seen) == 100

    run(work)


def test_who_wants_another_scale_makes_the_others_leave() -> None:
    async def work() -> None:
        gate, leave = ScaleGate(), asyncio.Event()

        async def sampler() -> None:
            async with gate.at(1.0):
                await leave.wait()

        async def evict() -> None:
            assert gate.contested
            leave.set()

        sampling = asyncio.create_task(sampler())
        await asyncio.sleep(0)
        async with gate.at(2.0, evict):
            assert leave.is_set()
        await sampling

    run(work)


async def _name(member: Member) -> str:
    return member.name


async def _never(member: Member) -> None:
    raise AssertionError(f"{member.name} was asked")
