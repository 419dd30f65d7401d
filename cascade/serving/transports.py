"""The trainer's side of the ways that published weights take to a replica: shm, disk and gloo."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo

from cascade.errors import EngineError
from cascade.serving.buckets import Bucket
from cascade.serving.client import Client
from cascade.serving.copies import save_bucket
from cascade.serving.replica import free_port

SHARED_MEMORY = Path("/dev/shm")


class Transport(Protocol):
    """Hands buckets to replicas. `stage` and `unstage` run where the weights are, the rest in the event loop."""

    keep_device: bool  # whether buckets stay on the GPU
    collective: bool  # whether `stage` and `unstage` need every rank

    async def join(self, client: Client, life: str) -> None:
        """Prepares the way to a server; `life` differs after a restart."""
        ...

    def stage(self, bucket: Bucket, copied: Path | None) -> Any:
        """Makes the bucket ready to be sent; `copied` is its file in the restart copy, where there is one."""
        ...

    async def send(self, client: Client, staged: Any) -> None:
        """Hands a staged bucket to one server, and waits until it has taken it over."""
        ...

    def unstage(self, staged: Any) -> None:
        """Frees what `stage` took."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


class FileTransport:
    """Buckets as safetensors files: `disk` reads those of the restart copy, `shm` its own in shared memory."""

    keep_device = False
    collective = False

    def __init__(self, kind: str) -> None:
        if kind == "shm" and not SHARED_MEMORY.is_dir():
            raise EngineError(f"{SHARED_MEMORY} is not there.", "Set `rollout.transport=disk`.")
        self.folder = shared_folder() if kind == "shm" else None
        self.buckets = 0

    async def join(self, client: Client, life: str) -> None:
        """Nothing to prepare."""

    def stage(self, bucket: Bucket, copied: Path | None) -> Path:
        """The path of the bucket's file."""
        if self.folder is None:
            if copied is None:
                raise ValueError("the disk transport sends the files of a copy")
            return copied
        self.buckets += 1
        return save_bucket(bucket, self.folder / f"bucket_{self.buckets:05d}.safetensors")

    async def send(self, client: Client, staged: Path) -> None:
        """See `Transport`."""
        await client.update({"kind": "files", "paths": [str(staged)]})

    def unstage(self, staged: Path) -> None:
        """Shared memory is freed after every bucket."""
        if self.folder is not None:
            staged.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Transport`."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def shared_folder(root: Path = SHARED_MEMORY) -> Path:
    """A new folder in shared memory; those of processes that have ended without removing theirs are removed."""
    for left in root.glob("cascade-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"cascade-{os.getpid()}-", dir=root))


class GlooTransport:
    """Broadcasts on the CPU, in one group a replica: this process is rank 0, the replica's workers the others.

    With a group for all, one dead replica would break every other one's update.
    """

    keep_device = False
    collective = False

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.workers = workers  # of a replica
        self.timeout = timedelta(seconds=timeout_s)
        self._groups: dict[str, tuple[str, Any]] = {}  # url -> the life it was made in, the group

    async def join(self, client: Client, life: str) -> None:
        """Makes the group of a server anew after a restart."""
        known, _ = self._groups.get(client.url, ("", None))
        if known == life:
            return
        host, port = reachable_host(client.url), free_port()
        info = {"kind": "gloo", "host": host, "port": port, "rank_offset": 1, "world_size": 1 + self.workers}
        _, group = await asyncio.gather(
            client.init_transfer(info), asyncio.to_thread(open_group, host, port, 1 + self.workers, self.timeout)
        )
        self._groups[client.url] = (life, group)

    def stage(self, bucket: Bucket, copied: Path | None) -> Bucket:
        """The bucket itself."""
        return bucket

    async def send(self, client: Client, staged: Bucket) -> None:
        """See `Transport`. Raises `EngineError` when the other side leaves in the middle."""
        _, group = self._groups[client.url]
        await asyncio.gather(
            client.update({"kind": "gloo", **described(staged)}), asyncio.to_thread(self._broadcast, group, staged)
        )

    def unstage(self, staged: Bucket) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """See `Transport`."""
        self._groups.clear()

    def _broadcast(self, group: Any, bucket: Bucket) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        try:
            for _, tensor in bucket:
                group.broadcast([tensor], options).wait(self.timeout)
        except RuntimeError as error:
            raise EngineError(f"A broadcast of weights broke off: {error}", "See the replica's log.") from error


def described(bucket: Bucket) -> dict[str, list[Any]]:
    """Names, dtypes ("float32") and shapes of a bucket, in its order."""
    return {
        "names": [name for name, _ in bucket],
        "dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket],
        "shapes": [list(tensor.shape) for _, tensor in bucket],
    }


def reachable_host(url: str) -> str:
    """An address of this machine that the server at `url` can connect to."""
    host = url.split("//")[-1].split(":")[0].split("/")[0]
    if host in ("127.0.0.1", "localhost"):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing: asks which interface leads there
        return probe.getsockname()[0]


def open_group(host: str, port: int, world_size: int, timeout: timedelta) -> Any:
    """Rank 0 of a gloo group outside of the default one; returns when all have joined.

    The store and its prefix are those of vLLM's `stateless_init_torch_distributed_process_group`.
    """
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        host, port, world_size, is_master=True, timeout=timeout, wait_for_workers=False
    )
    prefixed = PrefixStore(f"tcp://{host}:{port}", store)
    try:
        return ProcessGroupGloo(prefixed, 0, world_size, timeout)
    except RuntimeError as error:
        raise EngineError(
            f"No worker joined the gloo group at {host}:{port}: {error}", "See the replica's log."
        ) from error
