"""Which training process this one is: as torchrun's variables say, or derived from those of `srun`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, MutableMapping

LAUNCH = "CASCADE_LAUNCH"
"""The environment variable that names a job of ours: what runs inside of it starts no other one."""
FIRST_PORT, PORTS = 20_000, 10_000  # below the ports that systems hand out themselves
_HOSTS = re.compile(r"([^\[,]+)(?:\[([^\]]+)\])?([^\[,]*)(?:,|$)")


def inside_a_launcher() -> bool:
    """Whether a launcher has started this process already."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def inside_our_job() -> bool:
    """Whether this process belongs to a job that `cascade run` has submitted."""
    return LAUNCH in os.environ


def adopt_slurm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in a task of `srun`.

    torchrun's own variables are left as they are. A step of one task is taken for a shell (`srun --pty bash`) and not
    for a launcher, unless it is part of a job of ours; so is a batch script, which is in no step.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if "RANK" in environment or tasks is None or "SLURM_PROCID" not in environment:
        return
    if tasks == "1" and LAUNCH not in environment:
        return
    node, per_node = int(environment["SLURM_NODEID"]), environment["SLURM_STEP_TASKS_PER_NODE"]
    derived = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node(per_node)[node]),
        "MASTER_ADDR": _first_address(environment),
        "MASTER_PORT": str(_port(environment)),
    }
    for name, value in derived.items():
        environment.setdefault(name, value)


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form of counts: `tasks_per_node("4(x2),3") == [4, 4, 3]`."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def host_names(text: str) -> list[str]:
    """SLURM's short form of names: `host_names("gpu[01-02,7],login") == ["gpu01", "gpu02", "gpu7", "login"]`."""
    return list(_names(text))


def _names(text: str) -> Iterator[str]:
    for prefix, numbers, suffix in _HOSTS.findall(text):
        if not numbers:
            yield prefix + suffix
        for part in numbers.split(",") if numbers else []:
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield f"{prefix}{number:0{len(first)}d}{suffix}"


def _first_address(environment: MutableMapping[str, str]) -> str:
    """The node of task 0 by its name; by the address of the node that called `srun` where names mean nothing."""
    first = host_names(environment["SLURM_STEP_NODELIST"])[0]
    try:
        socket.getaddrinfo(first, None)
    except socket.gaierror:
        return environment.get("SLURM_LAUNCH_NODE_IPADDR", first)  # a batch script is on the node of task 0
    return first


def _port(environment: MutableMapping[str, str]) -> int:
    """The same on every task of a step, and another one for the next job or step."""
    job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
    return FIRST_PORT + (31 * job + step) % PORTS
