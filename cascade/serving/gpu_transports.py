"""The trainer's side of vLLM's own GPU backends: `nccl` and `ipc`. vLLM is imported only where one is used."""

from __future__ import annotations

import asyncio
import base64
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

from cascade import parallel
from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.serving.buckets import Bucket
from cascade.serving.client import Client
from cascade.serving.replica import free_port
from cascade.serving.transports import Transport, described, reachable_host


def gpu_transport(rollout: RolloutConfig) -> Transport:
    """The one that is asked for. Raises `EngineError` where there is no GPU."""
    if not torch.cuda.is_available():
        raise EngineError(
            f"rollout.transport={rollout.transport} needs a GPU, and torch sees none.", "Set `rollout.transport=shm`."
        )
    return IpcTransport() if rollout.transport == "ipc" else NcclTransport(rollout.tensor_parallel)


def nccl_init_info(host: str, port: int, workers: int) -> dict[str, Any]:
    """What a replica's workers are told: this process is rank 0 of a group with them alone."""
    return {
        "master_address": host,
        "master_port": port,
        "rank_offset": 1,
        "world_size": 1 + workers,
        "packed": False,
    }


def update_payload(bucket: Bucket) -> dict[str, Any]:
    """A bucket's names, dtypes and shapes under vLLM's own keys."""
    found = described(bucket)
    return {"names": found["names"], "dtype_names": found["dtypes"], "shapes": found["shapes"]}


class NcclTransport:
    """Broadcasts between GPUs, in one group a replica: a dead replica breaks no other one's update."""

    keep_device = True
    collective = False

    def __init__(self, workers: int) -> None:
        self.workers = workers  # of a replica
        self._groups: dict[str, tuple[str, Any]] = {}  # url -> the life it was made in, the communicator

    async def join(self, client: Client, life: str) -> None:
        """See `Transport`."""
        known, _ = self._groups.get(client.url, ("", None))
        if known == life:
            return
        info = nccl_init_info(reachable_host(client.url), free_port(), self.workers)
        device = torch.cuda.current_device()
        _, group = await asyncio.gather(client.init_transfer(info), asyncio.to_thread(_open_group, info, device))
        self._groups[client.url] = (life, group)

    def stage(self, bucket: Bucket, copied: Path | None) -> Bucket:
        """The bucket itself, complete on the GPU."""
        torch.cuda.current_stream().synchronize()
        return bucket

    async def send(self, client: Client, staged: Bucket) -> None:
        """See `Transport`."""
        _, group = self._groups[client.url]
        await asyncio.gather(client.update(update_payload(staged)), asyncio.to_thread(_broadcast, group, staged))

    def unstage(self, staged: Bucket) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """See `Transport`."""
        for _, group in self._groups.values():
            group.destroy()
        self._groups.clear()


class IpcTransport:
    """Hands over the GPU memory itself, to replicas on the training processes' own GPUs."""

    keep_device = True
    collective = True  # every rank's GPU has its own handles

    async def join(self, client: Client, life: str) -> None:
        """See `Transport`."""
        await client.init_transfer({"packed": False})

    def stage(self, bucket: Bucket, copied: Path | None) -> tuple[dict[str, Any], Bucket]:
        """What to post, and the tensors that must stay where they are meanwhile. Collective."""
        gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        mine = [{gpu: reduce_tensor(tensor)[1]} for _, tensor in bucket]
        torch.cuda.current_stream().synchronize()
        return ipc_payload(bucket, parallel.gather(mine)), bucket

    async def send(self, client: Client, staged: tuple[dict[str, Any], Bucket]) -> None:
        """See `Transport`."""
        await client.update(staged[0])

    def unstage(self, staged: tuple[dict[str, Any], Bucket]) -> None:
        """Waits until rank 0 has seen all replicas take the bucket. Collective."""
        parallel.barrier()
        torch.cuda.ipc_collect()

    def close(self) -> None:
        """Nothing is held."""


def ipc_payload(bucket: Bucket, handles: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """`handles`: for every rank, for every tensor, GPU -> how to open it. vLLM takes them pickled in base64."""
    merged = [{gpu: way for one in of_ranks for gpu, way in one.items()} for of_ranks in zip(*handles, strict=True)]
    return {**update_payload(bucket), "ipc_handles_pickled": base64.b64encode(pickle.dumps(merged)).decode()}


def _open_group(info: dict[str, Any], device: int) -> Any:
    from vllm.distributed.weight_transfer.nccl_common import trainer_init

    torch.cuda.set_device(device)  # of this thread
    return trainer_init(info)


def _broadcast(group: Any, bucket: Bucket) -> None:
    torch.cuda.set_device(bucket[0][1].device)
    stream = torch.cuda.current_stream()
    for _, tensor in bucket:
        group.broadcast(tensor, src=0, stream=stream)
    stream.synchronize()
