"""The interface of sandboxes: a back end opens rooms, and programs run in them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from cascade.sandbox.limits import Limits, Outcome

HOME = "/tmp/work"
"""Where programs run and their files lie, inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Furniture:
    """What a room shows besides the system's programs, the Python interpreter, and an empty /tmp.

    Paths inside are absolute and below none of /usr, /proc, /dev or /tmp. What is shown must be readable to everybody
    where root makes rooms, and what is copied on writing owned by `identity.outside_id()`.
    """

    read_only: Mapping[str, Path] = field(default_factory=dict)  # inside -> folder or file of this machine
    copy_on_write: Mapping[str, Path] = field(default_factory=dict)  # inside -> folder; the original stays as it is
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment, besides PATH, HOME and LANG


class Room(Protocol):
    """One namespace. Programs in it share files and processes with each other and with nobody else.

    Used by one thread at a time. Raises `SandboxError` where the machinery, and not the program, has failed.
    """

    def write(self, path: str, data: bytes, executable: bool = False) -> None:
        """Puts a file into the room; `path` is absolute or below `HOME`, and missing folders are made."""
        ...

    def run(
        self,
        command: Sequence[str],
        stdin: bytes = b"",
        *,
        time_s: float | None = None,
        folder: str = HOME,
        variables: Mapping[str, str] | None = None,
        line: socket.socket | None = None,
        keep: bool = False,
    ) -> Outcome:
        """Runs a command to its end or to a limit, and ends every process that it has left behind.

        Args:
            command: `("python", "main.py", ...)` runs a script in a copy of an interpreter that has started already,
                which costs a millisecond or two; `("python", "-")` reads the script from `stdin`; all else is found
                in the PATH of the room.
            stdin: a file of its own: programs can seek in it.
            time_s: in place of the room's limit.
            variables: of the environment, besides the room's.
            line: a connected socket that the program gets as descriptor 3.
            keep: leaves processes in the background running, which the next run finds; all end with the room.
        """
        ...

    def close(self) -> None:
        """Ends every process and forgets every file. Idempotent."""
        ...

    def __enter__(self) -> Room: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes it."""


class Sandbox(Protocol):
    """A back end. Any thread may call."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        ...

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        """A fresh room. Raises `SandboxError` where none can be opened."""
        ...
