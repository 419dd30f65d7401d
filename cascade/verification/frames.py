"""How a pool and its worker processes talk: length-prefixed pickles there, one JSON document a line back.

What comes back is never unpickled. A line that a killed process left unfinished spoils only itself.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import struct
import time
from typing import Any

HEADER = struct.Struct("<Q")
READ = 1 << 16


def frame(message: object) -> bytes:
    """A message as bytes. Raises what `pickle` raises for one that holds something it cannot take along."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def read_frame(descriptor: int) -> Any | None:
    """The next message, or None at the end of the stream."""
    header = _read_exactly(descriptor, HEADER.size)
    body = header and _read_exactly(descriptor, HEADER.unpack(header)[0])
    return pickle.loads(body) if body else None


def write_within(descriptor: int, data: bytes, seconds: float) -> None:
    """Writes all of it to a non-blocking descriptor. Raises `OSError` when nobody reads, now or for `seconds`."""
    end = time.monotonic() + seconds
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    view = memoryview(data)
    while view:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError(f"nothing was read for {seconds:g} s")
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            continue


def write_line(descriptor: int, document: Any) -> None:
    """Writes one JSON document to a blocking descriptor."""
    view = memoryview(json.dumps(document, separators=(",", ":")).encode() + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]


class Lines:
    """The JSON documents that come out of a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._rest = b""

    def read(self, seconds: float) -> list[Any] | None:
        """All documents that are there within `seconds`, at least one read of them; None at the end of the stream."""
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return []
        data = os.read(self.descriptor, READ)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [document for line in lines if (document := _document(line)) is not None]


def _document(line: bytes) -> Any | None:
    try:
        return json.loads(line) if line else None
    except ValueError:
        return None


def _read_exactly(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
