"""Processes on one node or several, through torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cascade.config import LaunchConfig


def torchrun_command(launch: LaunchConfig, arguments: Sequence[str], python: str = sys.executable) -> list[str]:
    """The command that runs `cascade ARGUMENTS` in the processes of one node; every node calls the same one.

    Several nodes meet at `launch.rendezvous`. When a process fails, all are ended, and started again together up to
    `launch.max_restarts` times: by then a lost node must be back, for the number of processes never changes.
    """
    words = [python, "-m", "torch.distributed.run"]
    if launch.nodes == 1:
        words += ["--standalone"]
    else:
        words += ["--nnodes", str(launch.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", str(launch.rendezvous)]
        words += ["--rdzv-id", "cascade", "--rdzv-conf", f"join_timeout={launch.start_timeout_s:.0f}"]
    words += ["--nproc_per_node", str(launch.processes)]
    if launch.max_restarts:
        words += ["--max-restarts", str(launch.max_restarts)]
    return [*words, "-m", "cascade", *arguments]


def start_torchrun(launch: LaunchConfig, arguments: Sequence[str]) -> None:
    """Replaces this process by torchrun."""
    command = torchrun_command(launch, arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // launch.processes)))
    os.execv(command[0], command)
