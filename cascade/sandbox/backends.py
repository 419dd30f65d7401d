"""Back ends by name. One that is asked for and not there is an error, never another one."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cascade.errors import ConfigError
from cascade.naming import nearest
from cascade.sandbox import bubblewrap, cgroups
from cascade.sandbox.identity import ROOM_ID, makes_rooms_as_root, passing_id
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Furniture, Room, Sandbox
from cascade.sandbox.room import ProcessRoom
from cascade.sandbox.seccomp import program


@dataclass(frozen=True)
class Bubblewrap:
    """Namespaces and a system call filter by bubblewrap; memory, processes and cores by control groups.

    Without control groups memory is limited for every process, and polled for all; where root makes the rooms there
    is no limit of processes then, so that is refused.
    """

    grouped: bool = True

    @property
    def name(self) -> str:
        return "bwrap" if self.grouped else "bwrap_without_cgroups"

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        """See `Sandbox.open`."""
        furniture = furniture or Furniture()
        group = cgroups.Group(cgroups.mounted(), limits) if self.grouped else None
        own = makes_rooms_as_root() and not furniture.copy_on_write  # those folders belong to one user for all rooms
        user = passing_id() if own else ROOM_ID
        seccomp, users = _filled(program(memory_is_counted=self.grouped)), _filled(bubblewrap.users(user))
        words = [*bubblewrap.command(limits, furniture, seccomp, users), *bubblewrap.first_process()]
        return ProcessRoom(words, _settings(limits, furniture, self.grouped, user), limits, group, [seccomp, users])


def _filled(data: bytes) -> int:
    """The reading end of a pipe that holds the data."""
    end, filled = os.pipe()
    os.write(filled, data)
    os.close(filled)
    return end


def _settings(limits: Limits, furniture: Furniture, grouped: bool, user: int) -> dict[str, Any]:
    """What the first process of a room is told at its start."""
    memory = limits.memory_mib * 2**20
    return {
        "uid": user,
        "gid": user,
        "own": list(furniture.copy_on_write),
        "disks": list(furniture.copy_on_write),
        "disk_bytes": limits.disk_mib * 2**20,
        "stack_bytes": memory,
        "memory_bytes": 0 if grouped else memory,
        "address_bytes": 0 if grouped else memory,
        "processes": 0 if grouped else limits.processes,
        "look": not grouped or bool(furniture.copy_on_write),
    }


def _with_groups() -> Sandbox:
    bubblewrap.binary()
    cgroups.mounted()
    return Bubblewrap()


def _without_groups() -> Sandbox:
    bubblewrap.binary()
    if makes_rooms_as_root():
        raise ConfigError(
            "sandbox=bwrap_without_cgroups cannot limit processes for root.", "Use sandbox=bwrap, or an ordinary user."
        )
    return Bubblewrap(grouped=False)


def _none() -> Sandbox:
    from cascade.sandbox.unprotected import Unprotected

    warnings.warn("sandbox=none: programs of the model run with all your rights, unprotected.", stacklevel=3)
    return Unprotected()


BACK_ENDS: dict[str, Callable[[], Sandbox]] = {
    "bwrap": _with_groups,
    "bwrap_without_cgroups": _without_groups,
    "none": _none,
}


def check_name(name: str, known: Collection[str] = BACK_ENDS.keys()) -> None:
    """Raises `ConfigError` for a name of no back end, naming the nearest of those that are known."""
    if name not in known:
        raise ConfigError(f"There is no sandbox `{name}`.", nearest(name, known, "sandbox"))


@functools.cache
def sandbox(name: str) -> Sandbox:
    """The back end of that name.

    Raises:
        ConfigError: there is none of that name.
        SandboxError: it is not available on this machine; says what to install.
    """
    check_name(name)
    return BACK_ENDS[name]()
