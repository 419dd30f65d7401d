"""A discrete-event simulation of rollouts ahead of training: to choose staleness, replicas and the split of GPUs.

It follows `cascade.ahead`: the batch of step k is begun when step k - n is about to train, batches are trained on in
their order, and weights are published before the next batch begins.
"""

from __future__ import annotations

import heapq
import statistics
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cascade.errors import ConfigError
from cascade.planning.response_lengths import ResponseLengths
from cascade.planning.simulated_replicas import ReplicaSpeed, Request, SimulatedPool


@dataclass(frozen=True)
class Loop:
    """What is simulated. Seconds are those of one thing at a time; tokens are sampled ones."""

    prompts: int  # P of a step
    rollouts: int  # G of a prompt
    max_staleness: int  # n batches ahead
    replicas: int
    speed: ReplicaSpeed
    train_s: float  # of a step, besides what its tokens cost
    train_token_s: float  # of a sampled token
    publish_s: float  # during which no replica decodes
    verify_s: float = 0.0  # of one rollout
    verifiers: int = 1
    failure_every_s: float = 0.0  # mean time between failures of one replica; 0: none fails
    restart_s: float = 300.0

    def __post_init__(self) -> None:
        """Raises `ConfigError` for a loop that cannot turn."""
        if min(self.prompts, self.rollouts, self.replicas, self.verifiers, self.speed.sequences) < 1:
            raise ConfigError(f"{self} has something of which there is none.", "Give at least one of each.")
        if 0 < self.failure_every_s < self.restart_s:
            raise ConfigError(
                f"A replica fails every {self.failure_every_s:g} s and needs {self.restart_s:g} s to restart.",
                "Nothing would ever be sampled; correct one of the two.",
            )


@dataclass(frozen=True)
class Simulated:
    """What came of it, over the steps after the first ones, during which the loop fills."""

    step_s: float  # median from one update to the next
    steps_s: tuple[float, ...]  # of every step, the first ones included
    trainer_busy: float  # share of the time
    replicas_busy: float  # share of the time in which a replica has at least one sequence
    staleness: float  # mean over tokens of the versions by which the weights that sampled them were old
    tokens_per_s: float  # sampled tokens that were trained on
    failures: int


def simulate(loop: Loop, lengths: ResponseLengths, *, steps: int, seed: int = 0) -> Simulated:
    """Runs the loop for `steps` optimiser steps; the same arguments give the same result."""
    return _Run(loop, lengths, steps, seed).result()


_FAILS, _IS_BACK = -1, -2  # in place of the number of an announcement


class _Run:
    """One simulation: events in the order of their times, and the trainer, who waits for batches."""

    def __init__(self, loop: Loop, lengths: ResponseLengths, steps: int, seed: int) -> None:
        self.loop, self.lengths, self.steps = loop, lengths, steps
        self.rng = np.random.default_rng(seed)
        self.pool = SimulatedPool(loop.speed, loop.replicas)
        self.events: list[tuple[float, int, int, int]] = []  # (time, order, replica, which of its announcements)
        self.order = 0
        self.missing: dict[int, int] = {}  # batch -> rollouts that are not verified
        self.tokens: dict[int, int] = {}  # batch -> sampled tokens
        self.version_tokens: dict[int, float] = {}  # batch -> sum over its tokens of the version that sampled them
        self.verified: dict[int, float] = {}  # batch -> when its last rollout was
        self.verifiers = [0.0] * loop.verifiers  # heap: when each is free
        self.begun: set[int] = set()  # batches
        self.started: dict[Request, float] = {}
        self.published: list[float] = []  # when each version was
        self.failures = 0

    def result(self) -> Simulated:
        loop, ends, trained_s = self.loop, [0.0], [0.0]
        for replica in range(loop.replicas):
            self._plan_failure(0.0, replica)
        for step in range(self.steps):
            begin = ends[-1]
            if loop.max_staleness == 0:
                begin = self._publish(begin)
            self._begin(step, begin)
            ready = max(begin, self._run_until_done(step))
            if loop.max_staleness:
                ready = self._publish(ready)
                for later in range(step + 1, min(self.steps, step + loop.max_staleness + 1)):
                    self._begin(later, ready)
            trained_s.append(loop.train_s + loop.train_token_s * self.tokens[step])
            ends.append(ready + trained_s[-1])
        first = min(loop.max_staleness + 1, self.steps - 1)
        return self._summary(ends, trained_s, first)

    def _summary(self, ends: list[float], trained_s: list[float], first: int) -> Simulated:
        each = [late - early for early, late in pairwise(ends)]
        counted = range(first, self.steps)
        span = ends[-1] - ends[first]
        tokens = sum(self.tokens[step] for step in counted)
        old = sum(step * self.tokens[step] - self.version_tokens[step] for step in counted)
        for replica in self.pool.replicas:
            replica.advance(max(ends[-1], replica.now))
        busy = sum(replica.busy_s for replica in self.pool.replicas) / (self.loop.replicas * ends[-1])
        return Simulated(
            step_s=statistics.median(each[first:]),
            steps_s=tuple(each),
            trainer_busy=sum(trained_s[first + 1 :]) / span,
            replicas_busy=min(1.0, busy),
            staleness=old / tokens,
            tokens_per_s=tokens / span,
            failures=self.failures,
        )

    def _publish(self, time: float) -> float:
        """Hands over the weights; what is in progress goes on with them afterwards. When it is done."""
        self._events_until(time)
        for at, replica in enumerate(self.pool.replicas):
            replica.advance(time)
            replica.hold(self.loop.publish_s)
            self._announce(at)
        self.published.append(time)
        return time + self.loop.publish_s

    def _begin(self, step: int, time: float) -> None:
        if step in self.begun:
            return
        self._events_until(time)
        loop = self.loop
        requests = [
            Request(step, prompt, rollout, tokens)
            for prompt in range(loop.prompts)
            for rollout, tokens in enumerate(self.lengths.draw(loop.rollouts, self.rng))
        ]
        self.begun.add(step)
        self.missing[step] = len(requests)
        self.tokens[step] = sum(request.tokens for request in requests)
        self.version_tokens[step] = 0.0
        self.verified[step] = time
        self.pool.submit(requests)
        self._dispatch(time)

    def _run_until_done(self, step: int) -> float:
        """When the last rollout of a batch is verified."""
        while self.missing[step]:
            self._next_event()
        return self.verified[step]

    def _events_until(self, time: float) -> None:
        while self.events and self.events[0][0] <= time:
            self._next_event()

    def _next_event(self) -> None:
        time, _, at, announced = heapq.heappop(self.events)
        replica = self.pool.replicas[at]
        if announced == _FAILS:
            self._fail(time, at)
        elif announced == _IS_BACK:
            self.pool.changed(at)
            self._dispatch(time)
        elif announced == replica.announced:
            replica.advance(time)
            _, request = heapq.heappop(replica.running)
            self.pool.changed(at)
            self._verify(request, time)
            self._announce(at)
            self._dispatch(time)

    def _fail(self, time: float, at: int) -> None:
        replica = self.pool.replicas[at]
        replica.advance(time)
        self.failures += 1
        self.pool.submit(replica.fail(self.loop.restart_s))
        self._announce(at)
        self._push(time + self.loop.restart_s, at, _IS_BACK)
        self._plan_failure(time + self.loop.restart_s, at)
        self._dispatch(time)

    def _plan_failure(self, time: float, at: int) -> None:
        if self.loop.failure_every_s:
            self._push(time + self.rng.exponential(self.loop.failure_every_s), at, _FAILS)

    def _verify(self, request: Request, time: float) -> None:
        """The first verifier that is free takes it."""
        done = max(time, heapq.heappop(self.verifiers)) + self.loop.verify_s
        heapq.heappush(self.verifiers, done)
        self.verified[request.batch] = max(self.verified[request.batch], done)
        self.missing[request.batch] -= 1
        self.version_tokens[request.batch] += request.tokens * self._version(request, time)

    def _version(self, request: Request, time: float) -> float:
        """The version that sampled a request's tokens: the mean of those at its beginning and at its end."""
        when = (self.started.pop(request), time)
        first, last = (max(0, bisect_right(self.published, moment) - 1) for moment in when)
        return (first + last) / 2

    def _dispatch(self, time: float) -> None:
        given = self.pool.dispatch(time)
        self.started.update((request, time) for request, _ in given)
        for at in {at for _, at in given}:
            self._announce(at)

    def _announce(self, at: int) -> None:
        """Says when the next sequence of a replica ends; what was said before no longer holds."""
        replica = self.pool.replicas[at]
        replica.announced += 1
        end = replica.next_end()
        if end is not None:
            self._push(end, at, replica.announced)

    def _push(self, time: float, at: int, announced: int) -> None:
        self.order += 1
        heapq.heappush(self.events, (time, self.order, at, announced))
