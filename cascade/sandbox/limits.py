"""What a program may use, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascade.errors import ConfigError

Status = Literal["ok", "runtime_error", "timeout", "memory", "output_limit", "killed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one sandbox: all its processes together, whatever they start.

    Raises `ConfigError` for a limit that is not positive.
    """

    time_s: float = 10.0  # wall clock of one run, and CPU seconds of all its processes together
    memory_mib: int = 512  # of all processes, with the interpreter (8 MiB) and what lies in /tmp
    disk_mib: int = 64  # of all files in /tmp, or in a copy-on-write folder
    processes: int = 64  # and threads
    output_kib: int = 1024  # of stdout and of stderr, each
    cpus: float = 1.0  # cores at once, where the back end can hold it

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"Sandbox limit {name} is {getattr(self, name)}.", "Give a positive number.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run, e.g. `Outcome("ok", 0, b"42\\n", b"", 0.02, 0.01, 9.5)`."""

    status: Status  # killed: by a signal that is none of our limits'
    exit_code: int | None  # negative: the signal that ended it; None: it was ended at a limit
    stdout: bytes  # at most `output_kib`
    stderr: bytes
    wall_s: float
    cpu_s: float  # of all its processes
    peak_memory_mib: float
    starved: bool = False  # a timeout on a machine with no free core: another try may end otherwise
