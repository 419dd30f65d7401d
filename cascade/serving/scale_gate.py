"""Who may use the replicas at which logit scale: prompt log-probs at a temperature need another one than sampling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

EVICT_EVERY_S = 0.1


class ScaleGate:
    """Lets any number in at one scale; who wants another one waits, and those who come later behind it.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._inside = 0
        self._waiting: list[float] = []  # scales, in the order of their coming
        self._changed = asyncio.Condition()

    @property
    def contested(self) -> bool:
        """Whether somebody waits for another scale."""
        return any(scale != self.scale for scale in self._waiting)

    @asynccontextmanager
    async def at(self, scale: float, evict: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Inside, the scale is `scale`. `evict` is called now and then while others are inside: it makes them leave."""
        self._waiting.append(scale)
        try:
            while not await self._enter(scale, EVICT_EVERY_S if evict else None):
                if evict:
                    await evict()
        finally:
            self._waiting.remove(scale)
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    async def _enter(self, scale: float, wait_s: float | None) -> bool:
        async with self._changed:
            if not self._admits(scale):
                try:
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                except TimeoutError:
                    return False
            if not self._admits(scale):
                return False
            self.scale = scale
            self._inside += 1
            return True

    def _admits(self, scale: float) -> bool:
        """Whoever wants what the first in the queue wants, when nobody inside wants otherwise."""
        return self._waiting[0] == scale and (self._inside == 0 or self.scale == scale)
