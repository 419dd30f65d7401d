"""What a judge was asked, what went wrong, and what it cost."""

from __future__ import annotations

import threading
from collections import Counter

from cascade.judging.config import JudgeConfig
from cascade.judging.endpoint import TROUBLES, Answer

MILLION = 1_000_000
NAMES = (
    "questions",
    "cache_hits",
    "first_requests",
    "retries",
    "failures/infrastructure",
    "failures/data",
    *(f"errors/{trouble}" for trouble in TROUBLES),
)


class Counts:
    """Counters that any thread may raise."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def charge(self, answer: Answer) -> None:
        """The tokens of an answer that was asked for, not of one that was kept."""
        self.add("tokens_in", answer.tokens_in)
        self.add("tokens_out", answer.tokens_out)

    def metrics(self) -> dict[str, float]:
        """Every count by name; `judge/cost` in the currency of the prices."""
        with self._lock:
            counts = Counter(self._counts)
        found = {f"judge/{name}": float(counts[name]) for name in NAMES if name != "first_requests"}
        found["judge/requests"] = float(counts["first_requests"] + counts["retries"])
        found["judge/tokens_in"], found["judge/tokens_out"] = float(counts["tokens_in"]), float(counts["tokens_out"])
        found["judge/cost"] = (
            counts["tokens_in"] * self._config.price_per_million_input
            + counts["tokens_out"] * self._config.price_per_million_output
        ) / MILLION
        return found
