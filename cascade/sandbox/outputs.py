"""What a program writes to stdout and stderr, read up to a limit while somebody waits for its end."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

READ_BYTES = 1 << 16


class Outputs:
    """Two pipes. `stdout` and `stderr` are to be given to the program, and closed here then.

    Args:
        limit: bytes of each that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.too_much = False
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self._texts = {out: bytearray(), err: bytearray()}
        for descriptor in self._texts:
            os.set_blocking(descriptor, False)

    def read(self, end: float, watched: int, flooded: Callable[[], None]) -> bool:
        """Reads until the descriptor `watched` has something to say; False where the time `end` came first.

        `flooded` is called once when the program has written more than the limit.
        """
        poll = select.poll()
        for descriptor in (*self._texts, watched):
            poll.register(descriptor, select.POLLIN)
        told = False
        while (left_s := end - time.monotonic()) > 0:
            ready = [descriptor for descriptor, _ in poll.poll(1000 * left_s)]
            if watched in ready:
                return True
            for descriptor in ready:
                if not self._take(descriptor):
                    poll.unregister(descriptor)
            if self.too_much and not told:
                told = True
                flooded()
        return False

    def close(self) -> tuple[bytes, bytes]:
        """Takes what is left in the pipes, closes them, and returns both texts."""
        for descriptor in self._texts:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            while not self.too_much and poll.poll(0) and self._take(descriptor):
                pass
            os.close(descriptor)
        out, err = (bytes(text) for text in self._texts.values())
        return out, err

    def _take(self, descriptor: int) -> bool:
        """Takes what is there; False at the end."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return True
        text = self._texts[descriptor]
        text += data[: self.limit - len(text) + 1]
        if len(text) > self.limit:
            del text[self.limit :]
            self.too_much = True
        return bool(data)
