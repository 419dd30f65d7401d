"""Claims on a model that one thread samples from while another replaces its weights or scores with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cascade import parallel
from cascade.errors import EngineError

DEADLINE_S = parallel.DEADLINE.total_seconds()  # one may hold the model for as long as the collective of a publish


@dataclass(eq=False)
class Claim:
    """One thread's wish for the model."""

    purpose: str
    sampling: bool


class Claims:
    """One thread has the model at a time, in the order in which they asked; sampling is passed over while paused.

    The sampling thread asks `interrupted` after every token and gives the model up when somebody else wants it. It is
    then last in the queue, and first again once those before it are served: nobody starves.
    """

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s  # of every wait
        self._changed = threading.Condition()
        self._queue: list[Claim] = []
        self._holder: Claim | None = None
        self._paused = False
        self._aborts = 0

    @property
    def aborts(self) -> int:
        """How often `abort` was called; sampling that began before the latest call is over."""
        with self._changed:
            return self._aborts

    @contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """The model between two tokens of the sampling thread, e.g. for `"publish"`. Raises `EngineError` if late."""
        self._take(Claim(purpose, sampling=False), None)
        try:
            yield
        finally:
            self._give_up()

    @contextmanager
    def sampling(self, aborts: int) -> Iterator[bool]:
        """The model for some tokens; or False, without the model, when `aborts` is no longer the count of aborts."""
        taken = self._take(Claim("sampling", sampling=True), aborts)
        try:
            yield taken
        finally:
            if taken:
                self._give_up()

    def interrupted(self, aborts: int) -> bool:
        """Whether the sampling thread should give the model up after this token."""
        with self._changed:
            return self._paused or self._aborts != aborts or any(not claim.sampling for claim in self._queue)

    def pause(self) -> None:
        """Passes sampling over until `resume`; returns when nobody samples."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not (self._holder and self._holder.sampling), self.deadline_s):
                raise self._late("pause")

    def resume(self) -> None:
        """The inverse of `pause`."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def abort(self) -> None:
        """Ends the sampling that has begun."""
        with self._changed:
            self._aborts += 1
            self._changed.notify_all()

    def _take(self, claim: Claim, aborts: int | None) -> bool:
        with self._changed:
            self._queue.append(claim)
            self._changed.notify_all()
            try:
                if not self._changed.wait_for(lambda: self._over(aborts) or self._is_next(claim), self.deadline_s):
                    raise self._late(claim.purpose)
                if self._over(aborts):
                    return False
                self._holder = claim
                return True
            finally:
                self._queue.remove(claim)
                self._changed.notify_all()

    def _give_up(self) -> None:
        with self._changed:
            self._holder = None
            self._changed.notify_all()

    def _over(self, aborts: int | None) -> bool:
        return aborts is not None and aborts != self._aborts

    def _is_next(self, claim: Claim) -> bool:
        first = next((other for other in self._queue if not (other.sampling and self._paused)), None)
        return self._holder is None and first is claim

    def _late(self, purpose: str) -> EngineError:
        awaited = f"{self._holder.purpose} to end" if self._holder else "resume"
        return EngineError(
            f"{purpose} waited {self.deadline_s:g} s for {awaited}.",
            "Look for what that call hangs in, or for a pause without a resume.",
        )
