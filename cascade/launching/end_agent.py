"""Ends a torchrun that does not end by itself: `python -m cascade.launching.end_agent PID`.

The agent of torchrun asks the meeting point of all nodes before it ends. On a host that is cut off nobody answers, and
it would wait for as long as the kernel repeats its packets, a quarter of an hour.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

GRACE_S = 10


def end_agent_later() -> None:
    """Has this process's torchrun ended in `GRACE_S`, where it would not start its processes again anyway."""
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS")
    if restarts is None or restarts != os.environ.get("TORCHELASTIC_RESTART_COUNT"):
        return
    subprocess.Popen([sys.executable, "-m", "cascade.launching.end_agent", str(os.getppid())], start_new_session=True)


def main(pid: int) -> None:
    """Kills the process `pid` unless it ends within `GRACE_S`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([process], [], [], GRACE_S)
    if not ended:
        signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
