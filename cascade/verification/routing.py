"""Which verdict is made where: in the caller, in threads, or by a crew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from cascade.ports import Bounded, Environment, Measures, ScoresGroups, Waits
from cascade.types import Verdict
from cascade.verification.asking import Desk
from cascade.verification.crew import CLOSED, Crew
from cascade.verification.jobs import Job
from cascade.verification.meter import Meter
from cascade.verification.outcomes import judged, no_verdict

Futures = list[Future[list[Verdict]]]


class RoutedVerifiers:
    """`Waits` environments are judged in threads, `Bounded` ones by the crew, all others in the calling thread."""

    def __init__(self, environments: Mapping[str, Environment], crew: Crew, meter: Meter, cache_entries: int) -> None:
        self.environments = environments
        self._crew = crew
        self._meter = meter
        self._threads = {
            name: ThreadPoolExecutor(environment.concurrency, thread_name_prefix=f"judge-{name}")
            for name, environment in environments.items()
            if isinstance(environment, Waits)
        }
        self._bounded = {name: each for name, each in environments.items() if is_bounded(each)}
        self._desk = Desk(self._bounded, crew, meter, cache_entries)

    def verify(self, jobs: Sequence[Job]) -> list[list[Verdict]]:
        """See `Verifiers.verify`."""
        with self._meter.caller():
            waited = {i: self._in_threads(job) for i, job in enumerate(jobs) if job.environment in self._threads}
            bounded = [i for i, job in enumerate(jobs) if job.environment in self._bounded]
            asked = self._desk.ask([jobs[i] for i in bounded])
            found = {
                i: judged(self.environments[job.environment], job.row, job.attempts)
                for i, job in enumerate(jobs)
                if job.environment not in self._bounded and i not in waited
            }
            found.update(zip(bounded, self._desk.collect(asked), strict=True))
            found.update((i, _outcome(futures, jobs[i])) for i, futures in waited.items())
        every = [verdict for verdicts in found.values() for verdict in verdicts]
        self._meter.count("verdicts", len(every))
        self._meter.count("failures", sum(verdict.score is None for verdict in every))
        return [found[i] for i in range(len(jobs))]

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

    def _in_threads(self, job: Job) -> Futures:
        environment, threads = self.environments[job.environment], self._threads[job.environment]
        together = isinstance(environment, ScoresGroups)
        if self._crew.closed:
            return []
        groups = [job.attempts] if together else [(attempt,) for attempt in job.attempts]
        return [threads.submit(judged, environment, job.row, group) for group in groups]


def is_bounded(environment: Environment) -> bool:
    """Whether a crew judges it. What waits for others is no work for a process, whatever its deadline."""
    return isinstance(environment, Bounded) and not isinstance(environment, Waits)


def _outcome(futures: Futures, job: Job) -> list[Verdict]:
    try:
        verdicts = [verdict for future in futures for verdict in future.result()]
    except CancelledError:
        verdicts = []
    return verdicts or [no_verdict(CLOSED)] * len(job.attempts)
