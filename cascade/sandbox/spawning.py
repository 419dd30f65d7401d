"""Starting processes that end with this one, from a thread that lives as long as it does.

The kernel ends them with the *thread* that started them, and rooms may be opened in threads that end sooner.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

BELONG = """ulimit -Sv unlimited 2>/dev/null
while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@\""""

_starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")


def spawned(words: Sequence[str], inherited: Sequence[int], doors: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process in the control groups behind `doors`, before it is anything else. Raises `OSError`."""
    if doors:
        words = ["/bin/sh", "-c", BELONG, "sandbox", *doors, "--", *words]
    return _starter.submit(_started, words, tuple(inherited)).result()


def _started(words: Sequence[str], inherited: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        env={},
        cwd="/",
    )


def _anew() -> None:
    global _starter
    _starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")


os.register_at_fork(after_in_child=_anew)  # a fork takes no threads along
