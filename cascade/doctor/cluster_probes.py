"""What the ranks of a cluster try with each other: clocks, ports, the shared file system and an all-reduce."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cascade.atomic import write_text
from cascade.meeting import Meeting, Place

CONNECT_S = 3.0  # to open one connection
POLL_S = 0.05  # between two looks at the file system
REPEATS = 5  # timed all-reduces
REDUCED_MIB = {"gloo": 8, "nccl": 256}


def clock(meeting: Meeting, timeout_s: float) -> dict[int, float] | None:
    """On rank 0: rank -> how far its clock is ahead, seconds, to within half a round trip. None elsewhere."""
    if meeting.rank != 0:
        if meeting.told(f"tick/{meeting.rank}", 0, timeout_s) is not None:
            meeting.tell("tock", time.time())
        return None
    ahead, until = {}, time.monotonic() + timeout_s
    for rank in range(1, meeting.world_size):
        sent = time.time()
        meeting.tell(f"tick/{rank}", True)
        theirs = meeting.told("tock", rank, until - time.monotonic())
        if theirs is not None:
            ahead[rank] = theirs - (sent + time.time()) / 2
    return ahead


@contextmanager
def listening(meeting: Meeting) -> Iterator[None]:
    """Inside of it the others can connect to this rank, which has told them where."""
    with socket.socket(socket.AF_INET6 if ":" in meeting.place.address else socket.AF_INET) as server:
        server.bind(("", 0))
        server.listen(1024)
        meeting.tell("port", server.getsockname()[1])
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        yield


def ports(meeting: Meeting, places: list[Place], timeout_s: float) -> list[str]:
    """What this rank could not connect to on other nodes; empty: everything. One rank a node tries them all."""
    if meeting.place.local_rank != 0:
        return []
    failed, until = [], time.monotonic() + timeout_s
    for place in places:
        if place.node == meeting.place.node:
            continue
        port = meeting.told("port", place.rank, until - time.monotonic())
        if port is None:
            failed.append(f"{place} told no port in {timeout_s:.0f} s")
            continue
        try:
            with socket.create_connection((place.address, port), CONNECT_S) as connection:
                connection.sendall(b"ping")
                connection.settimeout(CONNECT_S)
                if connection.recv(4) != b"ping":
                    failed.append(f"port {port} of {place} is somebody else's")
        except OSError as error:
            failed.append(f"port {port} of {place} at {place.address}: {error}")
    return failed


def shared_files(meeting: Meeting, places: list[Place], folder: Path, timeout_s: float) -> dict[str, Any]:
    """What this rank saw of the file system at `folder`: seconds until rank 0's file was there, and what was wrong.

    A file written under another name and renamed must appear whole; of all ranks that create the same file exactly
    one must succeed; a lock that rank 0 holds must be refused to the others.
    """
    until = time.monotonic() + timeout_s
    name = f".doctor-{secrets.token_hex(4)}" if meeting.rank == 0 else None
    if meeting.rank == 0:
        meeting.tell("folder", name)
    name = meeting.told("folder", 0, timeout_s)
    if name is None:
        return {"error": f"rank 0 told no folder in {timeout_s:.0f} s"}
    place, text = folder / name, "whole\n" * 1000
    try:
        with _held(place / "lock", mine=meeting.rank == 0):
            if meeting.rank == 0:
                write_text(place / "from_0", text)
                meeting.tell("written", True)
            meeting.told("written", 0, until - time.monotonic())
            began = time.monotonic()
            seen = _until(lambda: (place / "from_0").exists(), until)
            report: dict[str, Any] = {"seconds": round(time.monotonic() - began, 3) if seen else None}
            if not seen:
                return report | {"error": f"a file of rank 0 at {place} was not seen in {timeout_s:.0f} s"}
            report["whole"] = (place / "from_0").read_text() == text
            report["created"] = _creates(place / "one")
            report["lock_refused"] = meeting.rank == 0 or not _locks(place / "lock")
            write_text(place / f"from_{meeting.rank}_back", text)
            meeting.tell("looked", True)
            if meeting.rank == 0:
                meeting.gather("looked", until - time.monotonic())  # with the lock held until all have tried it
                back = [p for p in places if not _until((place / f"from_{p.rank}_back").exists, until)]
                report["unseen"] = [str(p) for p in back]
            return report
    except OSError as error:
        return {"error": str(error)}


def clean(folder: Path, name: str | None) -> None:
    """Removes what `shared_files` has left."""
    for file in (folder / name).glob("*") if name else []:
        file.unlink(missing_ok=True)
    if name:
        (folder / name).rmdir()


def all_reduce(meeting: Meeting, timeout_s: float) -> dict[str, Any]:
    """A sum over all ranks, checked, and its bandwidth: GB/s of the data, times 2 (n - 1) / n through every link."""
    cuda = torch.cuda.is_available()
    backend = "nccl" if cuda else "gloo"
    device = torch.device("cuda", meeting.place.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    world, store = meeting.world_size, meeting.group_store()
    try:
        deadline = timedelta(seconds=timeout_s)
        dist.init_process_group(backend, store=store, rank=meeting.rank, world_size=world, timeout=deadline)
        numbers = torch.arange(1000, device=device, dtype=torch.float64) * (meeting.rank + 1)
        dist.all_reduce(numbers)
        expected = torch.arange(1000, dtype=torch.float64) * (world * (world + 1) / 2)
        right = bool(torch.equal(numbers.cpu(), expected))
        size = REDUCED_MIB[backend] * 2**20
        data = torch.ones(size // 4, device=device)
        dist.all_reduce(data)
        began = time.monotonic()
        for _ in range(REPEATS):
            dist.all_reduce(data)
        float(data[0])  # waits for a GPU
        seconds = (time.monotonic() - began) / REPEATS
    except RuntimeError as error:  # of gloo and NCCL alike
        return {"backend": backend, "error": str(error).splitlines()[0]}
    return {"backend": backend, "right": right, "gb_s": size / seconds / 1e9, "mib": REDUCED_MIB[backend]}


def within(timeout_s: float, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `action` returns; an error where it takes longer. It is left behind in its thread."""
    found: list[dict[str, Any]] = []
    worker = threading.Thread(target=lambda: found.append(action()), daemon=True)
    worker.start()
    worker.join(timeout_s)
    return found[0] if found else {"error": f"did not end in {timeout_s:.0f} s"}


def _echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # closed
        with connection:
            connection.settimeout(CONNECT_S)
            try:
                connection.sendall(connection.recv(4))
            except OSError:
                continue


def _until(there: Callable[[], bool], until: float) -> bool:
    while not there():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def _creates(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


@contextmanager
def _held(file: Path, *, mine: bool) -> Iterator[None]:
    """Holds the lock of `file` where it is this rank's to hold."""
    if not mine:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _locks(file: Path) -> bool:
    with file.open("r+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
