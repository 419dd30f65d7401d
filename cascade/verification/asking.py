"""A caller's share of what a crew does: items that are judged alone, none that is known already."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cascade.ports import Environment, ScoresAttempts, ScoresEpisodes, ScoresGroups
from cascade.types import Attempt, Verdict
from cascade.verification.cache import Key, VerdictCache, key_of
from cascade.verification.calls import Item, Waiting
from cascade.verification.crew import Crew
from cascade.verification.fair_queue import CHUNK, Line
from cascade.verification.jobs import Job
from cascade.verification.meter import Meter
from cascade.verification.outcomes import no_verdict

LOOK_S = 0.2  # between looks whether jobs are decided, while the queue is full
UNNEEDED = no_verdict("not needed: what it was asked for is decided without it")


@dataclass(slots=True)
class AskedJob:
    """A job, and what its attempts are known by, in their order."""

    job: Job
    keys: list[Key] = field(default_factory=list)
    decided: bool = False  # its caller needs no more verdicts than there are


@dataclass(slots=True, eq=False)
class Asked:
    """What a caller waits for."""

    line: Line
    meter: Meter
    jobs: list[AskedJob]
    known: dict[Key, list[Verdict]] = field(default_factory=dict)
    items: dict[Key, Item] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    rest: Iterator[None] = field(default_factory=lambda: iter(()))  # hands in more, until the line is full
    ended: str = ""  # why, where it was cancelled

    def cancel(self, why: str) -> None:
        """Settles what is not settled; what is in the queue for it or in progress is dropped. Any thread may call."""
        self.ended, verdict = why, no_verdict(why)
        self.meter.count("cancelled", sum(item.settle_all(verdict) for item in list(self.items.values())))

    def look(self) -> None:
        """Drops the rest of the jobs that are decided."""
        for asked in self.jobs:
            decided = asked.job.decided
            if decided is None or asked.decided or not decided(self._so_far(asked)):
                continue
            asked.decided = True
            for key in asked.keys:
                item = self.items.get(key)
                if item is not None:
                    item.wanted -= 1
                    if not item.wanted and item.settle_all(UNNEEDED):
                        self.meter.count("cancelled")

    def verdicts(self) -> list[list[Verdict]]:
        """The verdicts on every job, when all are there."""
        found = {**self.known, **{key: item.verdicts or [] for key, item in self.items.items()}}
        each = [[verdict for key in asked.keys for verdict in found[key]] for asked in self.jobs]
        never = no_verdict(self.ended) if self.ended else UNNEEDED
        return [
            verdicts + [never] * (len(asked.job.attempts) - len(verdicts))
            for asked, verdicts in zip(self.jobs, each, strict=True)
        ]

    def _so_far(self, asked: AskedJob) -> list[Verdict | None]:
        """The verdict on every attempt of a job, None where there is none yet."""
        found: list[Verdict | None] = []
        for key in asked.keys:
            item = self.items.get(key)
            verdicts = self.known[key] if item is None else item.verdicts
            found += verdicts or [None] * (1 if item is None else len(item.attempts))
        return found + [None] * (len(asked.job.attempts) - len(found))


class Desk:
    """Where callers hand in jobs for a crew. Any thread may."""

    def __init__(self, environments: Mapping[str, Environment], crew: Crew, meter: Meter, cache_entries: int) -> None:
        self._crew = crew
        self._meter = meter
        self._cache = VerdictCache(cache_entries)
        self._judged_part = {name: judged_part(environment) for name, environment in environments.items()}
        self._together = {name for name, environment in environments.items() if isinstance(environment, ScoresGroups)}

    def ask(self, jobs: Sequence[Job]) -> Asked:
        """Hands in jobs, as many as the queue may hold of a call.

        Of equal attempts at a row one is judged, and none whose verdict is remembered.
        """
        counts: Counter[str] = Counter()
        for job in jobs:
            counts[job.environment] += len(job.attempts)
        asked = Asked(self._crew.line(counts), self._meter, [AskedJob(job) for job in jobs])
        asked.rest = self._handed_in(asked)
        next(asked.rest, None)
        return asked

    def collect(self, asked: Asked) -> list[list[Verdict]]:
        """Hands in the rest, waits for the verdicts on every job, and remembers them."""
        watched = any(asked.job.decided for asked in asked.jobs)
        for _ in asked.rest:
            self._wait_for_room(asked, watched)
        if asked.ended:
            asked.cancel(asked.ended)  # what was handed in meanwhile, too
        asked.waiting.wait(asked.look if watched else None)
        for key, item in asked.items.items():
            self._cache.put(key, item.verdicts or [])
        return asked.verdicts()

    def _wait_for_room(self, asked: Asked, watched: bool) -> None:
        while not self._crew.queue.room(asked.line):
            self._crew.queue.wait_for_room(asked.line, LOOK_S if watched else None)
            if watched:
                asked.look()

    def _handed_in(self, asked: Asked) -> Iterator[None]:
        """Queues what has to be judged; comes back whenever the line is full."""
        batches: defaultdict[str, list[Item]] = defaultdict(list)
        for each in asked.jobs:
            for group in self._groups(each.job):
                if each.decided or asked.ended:
                    break
                item = self._item(asked, each, group)
                if item is None:
                    continue
                batch = batches[each.job.environment]
                batch.append(item)
                if len(batch) == CHUNK:
                    self._crew.submit(asked.line, each.job.environment, batches.pop(each.job.environment))
                    if not self._crew.queue.room(asked.line):
                        yield
        for name, batch in batches.items():
            self._crew.submit(asked.line, name, batch)

    def _item(self, asked: Asked, each: AskedJob, group: list[Attempt]) -> Item | None:
        """What has to be judged; None where it is known already, or asked for already by this call."""
        key = key_of(each.job.environment, each.job.row, group)
        each.keys.append(key)
        item = asked.items.get(key)
        wanted = item is not None and item.wanted > 0  # else it was dropped: nobody needed it then
        if item is not None and wanted:
            item.wanted += 1
        if wanted or self._remembered(key, asked):
            self._meter.count("cache_hits", len(group))
            return None
        asked.waiting.expect()
        asked.items[key] = item = Item(each.job.row, group, asked.waiting, _characters(group))
        return item

    def _groups(self, job: Job) -> list[list[Attempt]]:
        part = self._judged_part[job.environment]
        attempts = [part(attempt) for attempt in job.attempts]
        return [attempts] if job.environment in self._together else [[attempt] for attempt in attempts]

    def _remembered(self, key: Key, asked: Asked) -> bool:
        if key not in asked.known:
            known = self._cache.get(key)
            if known is None:
                return False
            asked.known[key] = known
        return True


def _characters(attempts: Sequence[Attempt]) -> int:
    return sum(len(text) for each in attempts for text in (*each.turns, *each.reasoning, *each.answers))


def judged_part(environment: Environment) -> Callable[[Attempt], Attempt]:
    """Of an attempt only what the environment looks at: attempts that differ elsewhere have one verdict."""
    if isinstance(environment, (ScoresAttempts, ScoresGroups)):
        return lambda attempt: attempt
    if isinstance(environment, ScoresEpisodes):
        return lambda attempt: Attempt((), (), attempt.answers)
    return lambda attempt: Attempt((), (), attempt.answers[-1:])
