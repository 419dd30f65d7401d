"""One worker process at work: chunks in, verdicts out, and a deadline for every single verdict."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.verification.calls import Chunk, Item, packed, plain_row
from cascade.verification.crew import CLOSED, Hand
from cascade.verification.jobs import EnvironmentSpec
from cascade.verification.meter import Meter
from cascade.verification.outcomes import deadly, from_plain, no_verdict, too_slow
from cascade.verification.process import Broken, Unbuildable, WorkerProcess

PATIENCE = 4.0  # deadlines that an answer gets where the machine, and not the answer, is slow
OWN_DOING = 0.5  # of its deadline in CPU time, then an overdue answer has held the worker up itself
STARTS = 3  # of a worker process in a row, then its verdicts are failures
DEATHS = 2  # of workers over one answer, then it is the answer's doing
SLICE_S = 0.1  # after which an interrupt is seen
GATHER_S = 0.0005  # between two reads, in which results of quick answers gather


@dataclass(frozen=True, slots=True)
class Bound:
    """What an environment asks of its workers."""

    spec: EnvironmentSpec
    deadline_s: float


class ProcessHand(Hand):
    """Scores in a process of its own."""

    def __init__(self, bounds: Mapping[str, Bound], meter: Meter, memory_gib: float, retries: int) -> None:
        self.bounds = bounds
        self.meter = meter
        self.retries = retries
        self.process = WorkerProcess(memory_gib)
        self._closing = False

    def score(self, chunk: Chunk) -> list[Item]:
        bound, failures = self.bounds[chunk.environment], 0
        left, back = deque(chunk.items), []
        while left := deque(item for item in left if item.verdicts is None):
            count = len(left)
            try:
                self._run(bound, left, back)
            except Unbuildable as error:
                fail(left, f"environment {chunk.environment} cannot be built in a worker process:\n{error}")
            except Broken as error:
                self.process.close()
                if self._closing:
                    break
                self.meter.count("restarts")
                failures = failures + 1 if len(left) == count else 1
                if failures >= STARTS:
                    fail(left, str(error))
            if self._closing:
                break
        fail(left, CLOSED)
        return back

    def end(self) -> None:
        self.process.close()

    def interrupt(self) -> None:
        self._closing = self.process.interrupted = True

    def _run(self, bound: Bound, left: deque[Item], back: list[Item]) -> None:
        """Takes from `left` what it settles, in order, or puts `back`, until all is or the worker is gone.

        The deadline of a verdict begins when the one before it arrived, or when the worker began with the chunk. A
        worker that works for an item which nobody needs any more is killed. Raises `Broken` and `Unbuildable`.
        """
        data = packed(bound.spec.name, left)
        if not left:
            return
        self.process.ready(bound.spec, plain_row(left[0].row))
        cpu_s, since, number = self.process.send(data), time.monotonic(), 0
        while left and not self._closing:
            allowed_s = bound.deadline_s * len(left[0].attempts)
            results = self.process.results(_pause(time.monotonic() - since, allowed_s))
            for result in results:
                if isinstance(result, dict) and "paused" in result:
                    back += left
                    left.clear()
                    return
                if isinstance(result, dict):
                    self._died(left, result, time.monotonic() - since)
                    return
                if result[0] != number:
                    raise Broken(f"A worker process answered {result[0]} when it was asked {number}.")
                cpu_s, since, number = result[1], time.monotonic(), number + 1
                left.popleft().settle([from_plain(verdict) for verdict in result[2]])
            if not results and left[0].verdicts is not None:
                self.meter.count("restarts")
                self.process.kill()
                return
            if not results and self._gave_up(left, back, allowed_s, time.monotonic() - since, cpu_s):
                return
            if results and left:
                time.sleep(GATHER_S)

    def _gave_up(self, left: deque[Item], back: list[Item], allowed_s: float, waited_s: float, cpu_s: float) -> bool:
        """Whether an answer is overdue, by its own fault or the machine's: then its worker is killed."""
        if waited_s < allowed_s:
            return False
        now_s = self.process.cpu_s()
        used_s = allowed_s if now_s is None else max(0.0, now_s - cpu_s)
        if used_s >= OWN_DOING * allowed_s:
            left.popleft().settle_all(too_slow(allowed_s, waited_s))
            self.meter.count("timeouts")
        elif waited_s >= PATIENCE * allowed_s:
            item = left.popleft()
            item.tries += 1
            if item.tries <= self.retries:
                back.append(item)
                self.meter.count("retries")
            else:
                why = f"no verdict within {waited_s:.3g} s, for {used_s:.2g} s of which the worker computed"
                item.settle_all(no_verdict(why, waited_s))
        else:
            return False
        self.meter.count("restarts")
        self.process.kill()
        return True

    def _died(self, left: deque[Item], message: dict[str, Any], waited_s: float) -> None:
        if "ended" not in message:
            raise Broken(f"A worker process cannot work:\n{message.get('raised')}")
        self.meter.count("deaths")
        self.meter.count("restarts")
        left[0].deaths += 1
        if left[0].deaths >= DEATHS:
            left.popleft().settle_all(deadly(_how(message["ended"]), waited_s))


def fail(left: deque[Item], why: str) -> None:
    """Settles all that is left as failures of the machinery."""
    while left:
        left.popleft().settle_all(no_verdict(why))


def _pause(waited_s: float, allowed_s: float) -> float:
    """Seconds until somebody should look again."""
    return min(SLICE_S, allowed_s - waited_s if waited_s < allowed_s else max(0.005, allowed_s / 20))


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
