"""What verifiers report about themselves."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cascade.types import Verdict

COUNTED = ("verdicts", "cache_hits", "failures", "timeouts", "deaths", "retries", "restarts", "cancelled")
ENDS = ("timeout", "memory", "output_limit", "killed", "runtime_error")
PARTS = {**{end: end for end in ENDS}, "timed_out": "timeout", "out_of_memory": "memory"}
"""Parts of a score that say how a program of the model's ended, where it did not end well."""


class Meter:
    """Counts since the last `read`. Any thread may count.

    `verdicts`, of which `cache_hits` were known already and `failures` have no score; `timeouts`: answers killed at
    their deadline; `deaths`: workers that an answer ended; `retries`: verdicts tried again because of the machine;
    `restarts`: workers started besides the first ones; `cancelled`: answers dropped because nobody needed their
    verdicts any more; `per_second`: verdicts a second while somebody waited for some; `queue_s`: seconds that an answer
    waited for a worker, mean; `run_s`: seconds that its verdict then took, mean; `busy`: share of that time that
    workers worked; `ended/...`: verdicts on programs that ended so, from when the first such one was seen.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seen: dict[str, None] = dict.fromkeys(COUNTED)  # what is reported, also where it is 0
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._callers = 0
        self._since = 0.0

    def count(self, name: str, number: int = 1) -> None:
        """Adds to one of `COUNTED`."""
        with self._lock:
            self._counts[name] += number

    @contextmanager
    def caller(self) -> Iterator[None]:
        """While somebody waits for verdicts."""
        with self._lock:
            self._settle()
            self._callers += 1
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                self._callers -= 1

    def queued(self, seconds: float, items: int) -> None:
        """Items have found a worker after so long, in all."""
        with self._lock:
            self._sums["queue_s"] += seconds
            self._sums["queued"] += items

    def ran(self, seconds: float, items: int) -> None:
        """The verdicts on items took so long, in all."""
        with self._lock:
            self._sums["run_s"] += seconds
            self._sums["ran"] += items

    def ends(self, verdicts: Iterable[Verdict]) -> None:
        """Counts how the programs of answers ended, where they have some."""
        scores = [verdict.score for verdict in verdicts if verdict.score]
        found = Counter(end for score in scores for part, end in PARTS.items() if score.parts.get(part))
        if found:
            with self._lock:
                self._counts.update({f"ended/{end}": number for end, number in found.items()})
                self._seen.update((f"ended/{end}", None) for end in ENDS)

    def worked(self, seconds: float) -> None:
        """A worker has worked."""
        with self._lock:
            self._sums["busy_s"] += seconds

    def counts(self) -> dict[str, int]:
        """What was counted since the last call, for another meter."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)

    def read(self) -> dict[str, float]:
        """Everything since the last call, as `verifiers/NAME`."""
        with self._lock:
            self._settle()
            counts, sums = self._counts, self._sums
            self._counts, self._sums, seen = Counter(), defaultdict(float), list(self._seen)
        active = max(sums["active_s"], 1e-9)
        rates = {
            "per_second": counts["verdicts"] / active,
            "queue_s": sums["queue_s"] / max(sums["queued"], 1),
            "run_s": sums["run_s"] / max(sums["ran"], 1),
            "busy": min(1.0, sums["busy_s"] / (active * self.workers)),
        }
        return {f"verifiers/{name}": float(value) for name, value in ({n: counts[n] for n in seen} | rates).items()}

    def _settle(self) -> None:
        now = time.monotonic()
        if self._callers:
            self._sums["active_s"] += now - self._since
        self._since = now
