"""Processes that end when the one that started them does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """`die_with_parent`, also where the parent has ended before the kernel was told: then there is another by now."""
    die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Processes below this one that lose their parent become its children. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)
