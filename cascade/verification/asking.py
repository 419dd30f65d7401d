"""A caller's share of what a crew does: items that are judged alone, none that is known already, in chunks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cascade.ports import Environment, ScoresAttempts, ScoresEpisodes, ScoresGroups
from cascade.types import Attempt, Verdict
from cascade.verification.cache import Key, VerdictCache, key_of
from cascade.verification.calls import Chunk, Item, Waiting
from cascade.verification.crew import Crew
from cascade.verification.jobs import Job
from cascade.verification.meter import Meter

CHUNK = 64  # items at most
CHUNK_CHARACTERS = 2**22  # of their texts, unless a single item has more


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller waits for."""

    keys: list[list[Key]] = field(default_factory=list)  # of every job, in the order of its attempts
    known: dict[Key, list[Verdict]] = field(default_factory=dict)
    items: dict[Key, Item] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)

    def wait(self) -> list[list[Verdict]]:
        """The verdicts on every job."""
        self.waiting.wait()
        found = {**self.known, **{key: item.verdicts or [] for key, item in self.items.items()}}
        return [[verdict for key in keys for verdict in found[key]] for keys in self.keys]


class Desk:
    """Where callers hand in jobs for a crew. Any thread may."""

    def __init__(self, environments: Mapping[str, Environment], crew: Crew, meter: Meter, cache_entries: int) -> None:
        self._crew = crew
        self._meter = meter
        self._cache = VerdictCache(cache_entries)
        self._judged_part = {name: judged_part(environment) for name, environment in environments.items()}
        self._together = {name for name, environment in environments.items() if isinstance(environment, ScoresGroups)}

    def ask(self, jobs: Sequence[Job]) -> Asked:
        """Hands in jobs. Of equal attempts at a row one is judged, and none whose verdict is remembered."""
        asked, hits = Asked(), 0
        counts: Counter[str] = Counter()
        for job in jobs:
            counts[job.environment] += len(job.attempts)
        sizes = {name: self._crew.share(count, CHUNK) for name, count in counts.items()}
        open_chunks: defaultdict[str, _OpenChunk] = defaultdict(_OpenChunk)
        for job in jobs:
            asked.keys.append(keys := [])
            for group in self._groups(job):
                keys.append(key := key_of(job.environment, job.row, group))
                if key in asked.items or self._remembered(key, asked):
                    hits += len(group)
                    continue
                asked.waiting.expect()
                asked.items[key] = item = Item(job.row, group, asked.waiting)
                chunk = open_chunks[job.environment]
                chunk.add(item)
                if len(chunk.items) >= sizes[job.environment] or chunk.characters > CHUNK_CHARACTERS:
                    self._crew.submit(Chunk(job.environment, chunk.items))
                    del open_chunks[job.environment]
        for name, chunk in open_chunks.items():
            self._crew.submit(Chunk(name, chunk.items))
        self._meter.count("cache_hits", hits)
        return asked

    def collect(self, asked: Asked) -> list[list[Verdict]]:
        """Waits for the verdicts on every job, and remembers them."""
        verdicts = asked.wait()
        for key, item in asked.items.items():
            self._cache.put(key, item.verdicts or [])
        return verdicts

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


@dataclass(slots=True)
class _OpenChunk:
    """Items that wait for others to travel with."""

    items: list[Item] = field(default_factory=list)
    characters: int = 0

    def add(self, item: Item) -> None:
        self.items.append(item)
        for attempt in item.attempts:
            self.characters += sum(map(len, (*attempt.turns, *attempt.reasoning, *attempt.answers)))


def judged_part(environment: Environment) -> Callable[[Attempt], Attempt]:
    """Of an attempt only what the environment looks at: attempts that differ elsewhere have one verdict."""
    if isinstance(environment, (ScoresAttempts, ScoresGroups)):
        return lambda attempt: attempt
    if isinstance(environment, ScoresEpisodes):
        return lambda attempt: Attempt((), (), attempt.answers)
    return lambda attempt: Attempt((), (), attempt.answers[-1:])
