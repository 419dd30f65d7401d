"""Rollout servers in a simulation: continuous batching, one queue, groups kept together, replicas that fail."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReplicaSpeed:
    """What one replica needs for a token of every running sequence, and for a prompt."""

    decode_s: tuple[float, ...]  # by the sequences that run, 0 to as many as fit into its memory
    prefill_s: float  # of one rollout's prompt, during which its replica decodes nothing

    @property
    def sequences(self) -> int:
        """As many as fit into its memory at once."""
        return len(self.decode_s) - 1


@dataclass(frozen=True, order=True, slots=True)
class Request:
    """One rollout to sample."""

    batch: int  # training step it belongs to
    prompt: int
    rollout: int
    tokens: int


@dataclass
class SimulatedReplica:
    """Its clock counts the tokens that a sequence running since the beginning would have."""

    speed: ReplicaSpeed
    now: float = 0.0
    clock: float = 0.0  # tokens
    held_until: float = 0.0  # no token before: prefill, publish, restart
    down_until: float = 0.0  # no request before: restart
    busy_s: float = 0.0
    running: list[tuple[float, Request]] = field(default_factory=list)  # heap by the clock at which they end
    announced: int = 0  # of the ends that were announced for it, the one that still holds

    def advance(self, time: float) -> None:
        """Decodes until `time`."""
        if self.running:
            worked = max(0.0, time - max(self.now, self.held_until))
            self.clock += worked / self.speed.decode_s[len(self.running)]
            self.busy_s += time - self.now
        self.now = time

    def next_end(self) -> float | None:
        """When the next sequence is done, if nothing else happens."""
        if not self.running:
            return None
        left = max(0.0, self.running[0][0] - self.clock)
        return max(self.now, self.held_until) + left * self.speed.decode_s[len(self.running)]

    def begin(self, request: Request) -> None:
        """Takes a request, whose prefill holds up the others."""
        self.hold(self.speed.prefill_s)
        heapq.heappush(self.running, (self.clock + request.tokens, request))

    def hold(self, seconds: float) -> None:
        """Decodes nothing for a while."""
        self.held_until = max(self.held_until, self.now) + seconds

    def fail(self, restart_s: float) -> list[Request]:
        """Loses what it runs, and is back after `restart_s`."""
        lost = [request for _, request in self.running]
        self.running.clear()
        self.held_until = self.down_until = self.now + restart_s
        return lost


class SimulatedPool:
    """All replicas behind one queue: a prompt's rollouts go to one replica while it has room, else to the emptiest."""

    def __init__(self, speed: ReplicaSpeed, replicas: int) -> None:
        self.replicas = [SimulatedReplica(speed) for _ in range(replicas)]
        self._waiting: deque[Request] = deque()
        self._home: dict[tuple[int, int], int] = {}  # (batch, prompt) -> replica
        self._emptiest = [(0, at) for at in range(replicas)]  # heap of (running, replica); stale entries are skipped

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests behind those that wait."""
        self._waiting.extend(requests)

    def dispatch(self, time: float) -> list[tuple[Request, int]]:
        """Hands out what waits, first come first served; returns who got what."""
        given: list[tuple[Request, int]] = []
        while self._waiting and (at := self._place(self._waiting[0], time)) is not None:
            request = self._waiting.popleft()
            self.replicas[at].advance(time)
            self.replicas[at].begin(request)
            self.changed(at)
            given.append((request, at))
        return given

    def changed(self, at: int) -> None:
        """Takes note of how many sequences a replica runs now."""
        heapq.heappush(self._emptiest, (len(self.replicas[at].running), at))

    def _place(self, request: Request, time: float) -> int | None:
        key = (request.batch, request.prompt)
        home = self._home.get(key)
        if home is not None and self._room(home, time):
            return home
        while self._emptiest:
            running, at = self._emptiest[0]
            if running == len(self.replicas[at].running) and self._room(at, time):
                self._home[key] = at
                return at
            heapq.heappop(self._emptiest)  # stale, full, or down; `changed` brings it back
        return None

    def _room(self, at: int, time: float) -> bool:
        replica = self.replicas[at]
        return len(replica.running) < replica.speed.sequences and replica.down_until <= time
