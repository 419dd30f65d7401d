"""Who programs run as."""

from __future__ import annotations

import itertools
import os

ROOM_ID = 61184
"""User and group of programs: inside, and outside where root makes the rooms. The first of the passing users."""

PASSING = 4336  # users from there on, which systemd keeps free for what passes
_numbers = itertools.count()


def passing_id() -> int:
    """A user of its own for one room that root makes.

    The kernel counts some things for every user: bytes in pipes, queued signals, watches. Rooms of one user could use
    them up for each other.
    """
    return ROOM_ID + 1 + (os.getpid() * 97 + next(_numbers)) % (PASSING - 1)


def makes_rooms_as_root() -> bool:
    """Whether rooms are made with root's own rights, which their first process gives up, or by a user namespace."""
    return os.geteuid() == 0


def outside_id() -> int:
    """User and group that own what programs write in copy-on-write folders, as this machine sees them."""
    return ROOM_ID if makes_rooms_as_root() else os.geteuid()
