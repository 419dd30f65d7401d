"""Verifiers spread over the nodes of a Ray cluster: one worker process in an actor for every CPU.

The only file that imports Ray, and only when a recipe asks for it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import EngineError
from cascade.ports import Environment
from cascade.verification.calls import Chunk, Item, packed
from cascade.verification.crew import CLOSED, Crew, Hand
from cascade.verification.hand import PATIENCE, Bound
from cascade.verification.jobs import EnvironmentSpec
from cascade.verification.local import CACHE_ENTRIES, MEMORY_GIB, RETRIES, bounds_of, costs_of
from cascade.verification.meter import Meter
from cascade.verification.outcomes import PlainVerdict, from_plain, no_verdict
from cascade.verification.process import START_S
from cascade.verification.ray_actor import ActorHand
from cascade.verification.routing import RoutedVerifiers

OUTAGE_S = 300.0  # without any actor, after which verdicts are failures
CONNECT_S = 10.0
LOOK_S = 0.5  # between looks whether the verifiers are being closed


class RayVerifiers(RoutedVerifiers):
    """`Bounded` environments are judged on a Ray cluster, everything else as by `LocalVerifiers`.

    What an actor or a node that dies had in hand goes to the others, and the actor comes back where there is room.
    The project, and modules that recipes name, must be importable on every node.

    Args:
        workers: actors, of one CPU each; None: as many as the cluster has, shared with the run's other processes.
        address: of the cluster; None: `$RAY_ADDRESS`, else one is started on this machine and ended with `close`.

    Raises `EngineError` where Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        environments: Mapping[str, Environment],
        specs: Mapping[str, EnvironmentSpec],
        workers: int | None = None,
        cache_entries: int = CACHE_ENTRIES,
        retries: int = RETRIES,
        memory_gib: float = MEMORY_GIB,
        address: str | None = None,
    ) -> None:
        bounds = bounds_of(environments, specs)
        self._own = _connect(address)
        meter = Meter(workers or _own_cpus())
        fleet = _Fleet()
        hands = [RayHand(bounds, meter, memory_gib, retries, fleet) for _ in range(meter.workers)]
        super().__init__(environments, Crew(hands, meter, costs_of(bounds)), meter, cache_entries)

    def close(self) -> None:
        super().close()
        if self._own:
            import ray

            self._own = False
            ray.shutdown()


class RayHand(Hand):
    """Scores in an actor somewhere on the cluster."""

    def __init__(
        self, bounds: Mapping[str, Bound], meter: Meter, memory_gib: float, retries: int, fleet: _Fleet
    ) -> None:
        self.bounds = bounds
        self.meter = meter
        self.retries = retries
        self.fleet = fleet
        self._arguments = (bounds, memory_gib, retries)
        self._actor: Any = None
        self._up = False
        self._closing = False

    def rest(self) -> None:
        """Waits for the actor to be there, the first time or again; not for ever where no other is there either."""
        import ray
        from ray.exceptions import RayError

        if self._actor is None:
            self._actor = _actor_class().remote(*self._arguments)
        ping = None
        while not self._up and not self._closing and not self.fleet.given_up():
            try:
                ping = ping or self._actor.ping.remote()
                ready, _ = ray.wait([ping], timeout=LOOK_S)
                if ready:
                    self._up = ray.get(ping)
            except RayError:
                ping = None
                time.sleep(LOOK_S)
        if self._up:
            self.fleet.joined(self)

    def score(self, chunk: Chunk) -> list[Item]:
        items = [item for item in chunk.items if item.verdicts is None]
        if not self._up:
            for item in items:
                item.settle_all(no_verdict(CLOSED if self._closing else f"no Ray actor was there in {OUTAGE_S:g} s"))
            return []
        data = packed(chunk.environment, items)
        if not items:
            return []
        try:
            outcome = self._outcome(self._actor.score.remote(data), self._limit_s(chunk.environment, items))
        except _Lost as error:
            return self._lost(items, str(error))
        if outcome is None:
            for item in items:
                item.settle_all(no_verdict(CLOSED))
            return []
        verdicts, counts = outcome
        for item, found in zip(items, verdicts, strict=True):
            if found is not None:
                item.settle([from_plain(verdict) for verdict in found])
        for name, number in counts.items():
            self.meter.count(name, number)
        return [item for item, found in zip(items, verdicts, strict=True) if found is None]

    def end(self) -> None:
        import ray

        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor, no_restart=True)
        self._actor = None

    def interrupt(self) -> None:
        self._closing = True

    def _outcome(self, reference: Any, limit_s: float) -> tuple[list[list[PlainVerdict] | None], dict[str, int]] | None:
        """What the actor returns; None when the verifiers are closed meanwhile. Raises `_Lost`."""
        import ray
        from ray.exceptions import RayError

        end = time.monotonic() + limit_s
        try:
            while not ray.wait([reference], timeout=LOOK_S)[0]:
                if self._closing:
                    return None
                if time.monotonic() > end:
                    ray.kill(self._actor, no_restart=False)
                    raise _Lost(f"a Ray actor did not answer within {limit_s:.0f} s")
            return ray.get(reference)
        except RayError as error:
            raise _Lost(f"{type(error).__name__}: {error}") from None

    def _lost(self, items: Sequence[Item], why: str) -> list[Item]:
        """Gives items to other actors, those apart that were lost too often."""
        self._up = False
        self.fleet.left(self)
        self.meter.count("restarts")
        back = []
        for item in items:
            item.tries += 1
            if item.tries <= self.retries:
                back.append(item)
            else:
                item.settle_all(no_verdict(why))
        self.meter.count("retries", len(back))
        return back

    def _limit_s(self, environment: str, items: Sequence[Item]) -> float:
        """Longer than a healthy actor can take."""
        attempts = sum(len(item.attempts) for item in items)
        return 3 * START_S + attempts * self.bounds[environment].deadline_s * (PATIENCE + 1) * (self.retries + 1)


class _Lost(Exception):
    """An actor is gone, or as good as gone."""


class _Fleet:
    """Which hands have an actor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._up: set[RayHand] = set()
        self._none_since = time.monotonic()

    def joined(self, hand: RayHand) -> None:
        with self._lock:
            self._up.add(hand)

    def left(self, hand: RayHand) -> None:
        with self._lock:
            self._up.discard(hand)
            self._none_since = time.monotonic()

    def given_up(self) -> bool:
        """Whether there has been none for too long."""
        with self._lock:
            return not self._up and time.monotonic() - self._none_since > OUTAGE_S


def _connect(address: str | None) -> bool:
    """Joins the cluster; whether this call did. Raises `EngineError`."""
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            "Ray is not installed, and `verifiers.engine` is ray.", "`pip install ray`, or verifiers=local."
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"No Ray cluster can be reached at {address or 'its default address'}: {error}.",
            "Start one with `ray start --head`, or correct `verifiers.address`.",
        ) from None
    return True


def _knock(address: str) -> None:
    """Raises `OSError` where nothing listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def _own_cpus() -> int:
    """The cluster's CPUs, divided by the processes of this run, each of which has actors of its own."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)) // int(os.environ.get("WORLD_SIZE", "1")))


def _actor_class() -> Any:
    import ray

    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return ray.remote(ActorHand).options(
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=0,  # what a dead actor had in hand goes to another one, not to its successor
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
