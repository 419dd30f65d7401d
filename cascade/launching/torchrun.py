"""Several processes on this node, through torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def inside_a_launcher() -> bool:
    """Whether torchrun, accelerate or deepspeed has started this process already."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def torchrun_command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs `cascade ARGUMENTS` in `processes` processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, "-m", "cascade", *arguments]


def start_torchrun(processes: int, arguments: Sequence[str]) -> None:
    """Replaces this process by torchrun."""
    command = torchrun_command(processes, arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    os.execv(command[0], command)
