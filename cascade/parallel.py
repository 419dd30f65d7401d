"""The process group: who I am, and handing Python objects round. One process is a group of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from cascade.errors import CascadeError
from cascade.meeting import Meeting, Place

T = TypeVar("T")
DEADLINE = timedelta(minutes=30)  # of every collective: a lost peer is an error, not a hang
_deadline = DEADLINE  # what this run has chosen in its place
_places: list[Place] = []  # of all ranks
_groups: dict[int, dist.ProcessGroup] = {}  # of `sharing_group`


def start(threads: int | None = None, timeout_s: float = DEADLINE.total_seconds(), join_s: float = 600.0) -> None:
    """Joins the process group of the launcher, or makes one of this process alone. Idempotent.

    `timeout_s`: deadline of a collective. `join_s`: for all ranks to be there; raises `EngineError` naming the others.
    """
    global _deadline
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not torch.cuda.is_available():
        torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local))
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _deadline = timedelta(seconds=timeout_s)
    if "RANK" in os.environ:
        meeting = Meeting(join_s)
        _places[:] = meeting.require_all()
        store, world = meeting.group_store(), meeting.world_size
        dist.init_process_group(backend, store=store, rank=meeting.rank, world_size=world, timeout=_deadline)
        return
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_deadline)


def rank() -> int:
    """This process's number, 0 to `world_size() - 1`."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Processes in the group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def places() -> list[Place]:
    """Where every rank runs; empty where no launcher has started this process."""
    return list(_places)


def data_rank(sharing: int) -> int:
    """Which share of the data this process has, where `sharing` consecutive processes have the same."""
    return rank() // sharing


def data_size(sharing: int) -> int:
    """Shares of the data, where `sharing` consecutive processes have the same."""
    return world_size() // sharing


def sharing_group(sharing: int) -> dist.ProcessGroup:
    """The `sharing` consecutive processes that this one has its data in common with. Collective the first time."""
    if sharing not in _groups:
        ranks = [list(range(first, first + sharing)) for first in range(0, world_size(), sharing)]
        own, _ = dist.new_subgroups_by_enumeration(ranks, timeout=_deadline)
        _groups[sharing] = own  # pyright: ignore[reportArgumentType]
    return _groups[sharing]


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def gather(item: T) -> list[T]:
    """Every process's object, in the order of ranks, on every process. Collective."""
    if world_size() == 1:
        return [item]
    items: list[T | None] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def broadcast(item: T) -> T:
    """Rank 0's object, on every process. Collective."""
    if world_size() == 1:
        return item
    box = [item]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all processes. Collective."""
    if world_size() > 1:
        values = values.to(device())
        dist.all_reduce(values)
    return values.cpu()


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()


def spread(items: list[T]) -> list[T]:
    """This process's share of a list that every process holds: every `world_size()`-th item, from `rank()`."""
    return items[rank() :: world_size()]


def collect(share: list[T]) -> list[T]:
    """The inverse of `spread`: the whole list in its first order, on every process. Collective."""
    shares = gather(share)
    total = sum(len(part) for part in shares)
    return [shares[i % len(shares)][i // len(shares)] for i in range(total)]


def on_first(action: Callable[[], T]) -> T:
    """What rank 0's `action` returns, on every rank; what it raises, on every rank. Collective.

    For everything that must happen once: the registry, the run folder, a decision.
    """
    outcome: tuple[T | None, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (action(), None)
        except (CascadeError, OSError) as error:
            outcome = (None, error)
    result, error = broadcast(outcome)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def everywhere(action: Callable[[], T]) -> T:
    """What `action` returns on this rank; what it raises on any rank is raised on all. Collective."""
    result: T | None = None
    failed: CascadeError | None = None
    try:
        result = action()
    except CascadeError as error:
        failed = error
    for error in gather(failed):
        if error is not None:
            raise error
    return result  # type: ignore[return-value]
