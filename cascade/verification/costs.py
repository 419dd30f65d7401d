"""What a verdict of every environment costs, learnt from those that were made."""

from __future__ import annotations

import threading
from collections.abc import Mapping

PRIOR = 0.01  # of its deadline: what a verdict costs before one was made
WEIGHT = 0.1  # of the latest chunk in the mean


class Costs:
    """Seconds of a worker that a verdict takes, by environment: a mean that forgets. Any thread may call."""

    def __init__(self, deadlines_s: Mapping[str, float]) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, float] = {}
        self._priors = {name: PRIOR * deadline_s for name, deadline_s in deadlines_s.items()}

    def of(self, environment: str) -> float:
        """Seconds that its next verdict will take, as far as one can tell."""
        return self._known.get(environment, self._priors.get(environment, 0.0))

    def fit(self, environment: str, seconds: float) -> int:
        """How many verdicts take so long; at least one."""
        return max(1, int(seconds / max(self.of(environment), 1e-9)))

    def learn(self, environment: str, items: int, seconds: float) -> None:
        """So many verdicts took so long."""
        each = seconds / max(items, 1)
        with self._lock:
            known = self._known.get(environment, each)
            self._known[environment] = known + WEIGHT * (each - known)
