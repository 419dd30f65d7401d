"""What verifiers report about themselves."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

COUNTED = ("verdicts", "cache_hits", "failures", "timeouts", "deaths", "retries", "restarts")


class Meter:
    """Counts since the last `read`. Any thread may count.

    `verdicts`, of which `cache_hits` were known already and `failures` have no score; `timeouts`: answers killed at
    their deadline; `deaths`: workers that an answer ended; `retries`: verdicts tried again because of the machine;
    `restarts`: workers started besides the first ones; `per_second`: verdicts a second while somebody waited for
    some; `queue_s`: seconds that a chunk waited for a worker, mean; `busy`: share of that time that workers worked.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
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

    def queued(self, seconds: float) -> None:
        """A chunk has found a worker."""
        with self._lock:
            self._sums["queue_s"] += seconds
            self._sums["chunks"] += 1

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
            self._counts, self._sums = Counter(), defaultdict(float)
        active = max(sums["active_s"], 1e-9)
        rates = {
            "per_second": counts["verdicts"] / active,
            "queue_s": sums["queue_s"] / max(sums["chunks"], 1),
            "busy": min(1.0, sums["busy_s"] / (active * self.workers)),
        }
        return {f"verifiers/{name}": float(value) for name, value in ({n: counts[n] for n in COUNTED} | rates).items()}

    def _settle(self) -> None:
        now = time.monotonic()
        if self._callers:
            self._sums["active_s"] += now - self._since
        self._since = now
