"""Who programs run as."""

from __future__ import annotations

import os

ROOM_ID = 61184
"""User and group of programs: inside always, and outside where root makes the rooms. In the range of passing users."""


def makes_rooms_as_root() -> bool:
    """Whether rooms are made with root's own rights, which their first process gives up, or by a user namespace."""
    return os.geteuid() == 0


def outside_id() -> int:
    """User and group that own what programs write in copy-on-write folders, as this machine sees them."""
    return ROOM_ID if makes_rooms_as_root() else os.geteuid()
