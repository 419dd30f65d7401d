"""Which verdict is made where: in the caller, in threads, or by a crew."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from cascade.ports import Bounded, Environment, Measures, MultiTurn, ScoresGroups, Waits
from cascade.types import Verdict
from cascade.verification.asking import Asked, Desk
from cascade.verification.crew import CLOSED, Crew
from cascade.verification.jobs import Job
from cascade.verification.meter import Meter
from cascade.verification.outcomes import judged, no_verdict

UNWANTED = "nobody wants the verdicts"
INTERRUPTED = "the caller was interrupted"

Futures = list[Future[list[Verdict]]]


@dataclass(eq=False)
class _Call:
    """One call of `verify` in progress."""

    asked: Asked
    futures: dict[int, Futures] = field(default_factory=dict)  # of jobs that wait for others, by place

    def cancel(self) -> None:
        self.asked.cancel(UNWANTED)
        for futures in list(self.futures.values()):
            for future in futures:
                future.cancel()


class RoutedVerifiers:
    """`Waits` environments are judged in threads, `Bounded` ones by the crew, all others in the calling thread."""

    def __init__(self, environments: Mapping[str, Environment], crew: Crew, meter: Meter, cache_entries: int) -> None:
        self.environments = environments
        self._crew = crew
        self._meter = meter
        self._threads = {
            name: ThreadPoolExecutor(environment.concurrency, thread_name_prefix=f"judge-{name}")
            for name, environment in environments.items()
            if isinstance(environment, Waits) and not is_bounded(environment)
        }
        self._bounded = {name: each for name, each in environments.items() if is_bounded(each)}
        self._desk = Desk(self._bounded, crew, meter, cache_entries)
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()  # in progress
        self._refusing = 0  # callers that want no verdicts made

    def verify(self, jobs: Sequence[Job]) -> list[list[Verdict]]:
        """See `Verifiers.verify`."""
        bounded = [i for i, job in enumerate(jobs) if job.environment in self._bounded]
        with self._meter.caller(), self._call([jobs[i] for i in bounded]) as call:
            if call is None:
                return [[no_verdict(UNWANTED)] * len(job.attempts) for job in jobs]
            call.futures = {i: self._in_threads(job) for i, job in enumerate(jobs) if job.environment in self._threads}
            found = {
                i: judged(self.environments[job.environment], job.row, job.attempts)
                for i, job in enumerate(jobs)
                if job.environment not in self._bounded and i not in call.futures
            }
            outside = dict(zip(bounded, self._desk.collect(call.asked), strict=True))
            outside.update((i, _outcome(futures, jobs[i])) for i, futures in call.futures.items())
            found.update(outside)
        every = [verdict for verdicts in found.values() for verdict in verdicts]
        self._meter.count("verdicts", len(every))
        self._meter.count("failures", sum(verdict.score is None for verdict in every))
        self._meter.ends(verdict for verdicts in outside.values() for verdict in verdicts)
        return [found[i] for i in range(len(jobs))]

    @contextmanager
    def unwanted(self) -> Iterator[None]:
        """See `Verifiers.unwanted`."""
        with self._lock:
            self._refusing += 1
            calls = list(self._calls)
        try:
            for call in calls:
                call.cancel()
            yield
        finally:
            with self._lock:
                self._refusing -= 1

    def metrics(self) -> dict[str, float]:
        """See `Verifiers.metrics`; with what environments measure, e.g. `preference/judge/requests`."""
        own = {
            f"{name}/{key}": float(value)
            for name, environment in self.environments.items()
            if isinstance(environment, Measures)
            for key, value in environment.metrics().items()
        }
        return {**self._meter.read(), **own}

    def close(self) -> None:
        """See `Verifiers.close`."""
        self._crew.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _call(self, bounded: Sequence[Job]) -> Iterator[_Call | None]:
        """What a caller waits for, while it does; None where nobody wants verdicts."""
        with self._lock:
            if self._refusing:
                call = None
            else:
                self._calls.add(call := _Call(self._desk.ask(bounded)))
        try:
            yield call
        finally:
            if call is not None:
                call.asked.cancel(INTERRUPTED)  # nothing, unless the caller leaves by an exception
                with self._lock:
                    self._calls.discard(call)

    def _in_threads(self, job: Job) -> Futures:
        environment, threads = self.environments[job.environment], self._threads[job.environment]
        together = isinstance(environment, ScoresGroups)
        if self._crew.closed:
            return []
        groups = [job.attempts] if together else [(attempt,) for attempt in job.attempts]
        return [threads.submit(judged, environment, job.row, group) for group in groups]


def is_bounded(environment: Environment) -> bool:
    """Whether a crew judges it.

    What waits for others while it judges is no work for a process, whatever its deadline; what waits while it answers
    a model's turns is.
    """
    judges = isinstance(environment, MultiTurn) or not isinstance(environment, Waits)
    return isinstance(environment, Bounded) and judges


def _outcome(futures: Futures, job: Job) -> list[Verdict]:
    try:
        verdicts = [verdict for future in futures for verdict in future.result()]
    except CancelledError:
        verdicts = []
    return verdicts or [no_verdict(CLOSED)] * len(job.attempts)
