"""An event loop in a thread of its own: the one from which servers are started and spoken to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
END_S = 30.0  # deadline of the thread's end


class Background:
    """The thread lives from construction to `close`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Until `close`."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises; waits for it. From any other thread, several at a time.

        Who is interrupted while waiting (Ctrl-C) interrupts the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Ends loop and thread. Idempotent."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(END_S)
            self.loop.close()
