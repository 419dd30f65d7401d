"""What transports leave behind, what they tell the workers, and what copies on disk are kept."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.serving import transports
from cascade.serving.arguments import gpus
from cascade.serving.client import Client
from cascade.serving.copies import READY, CopyWriter, Weights
from cascade.serving.gpu_transports import gpu_transport, ipc_payload, nccl_init_info, update_payload
from cascade.serving.transports import FileTransport, GlooTransport, reachable_host, shared_folder

BUCKET = [("a", torch.arange(6.0).reshape(2, 3)), ("b", torch.ones(4, dtype=torch.bfloat16))]


class Worker(Client):
    """The other side of a gloo group, in this process: joins as rank 1 and keeps what is broadcast."""

    def __init__(self, url: str, breaks: bool = False) -> None:
        super().__init__(url, 5.0)
        self.received: dict[str, torch.Tensor] = {}
        self.joins = 0
        self.breaks = breaks

    async def init_transfer(self, init_info: Mapping[str, Any]) -> None:
        self.joins += 1
        self.group = await asyncio.to_thread(self._join, init_info)

    def _join(self, info: Mapping[str, Any]) -> Any:
        address = f"tcp://{info['host']}:{info['port']}"
        deadline = timedelta(seconds=10)
        store = torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            info["host"], info["port"], info["world_size"], is_master=False, timeout=deadline
        )
        prefixed = transports.PrefixStore(address, store)
        return transports.ProcessGroupGloo(prefixed, info["rank_offset"], info["world_size"], deadline)

    async def update(self, update_info: Mapping[str, Any]) -> None:
        if self.breaks:
            raise EngineError("The worker has no room.", "Make some.")
        await asyncio.to_thread(self._receive, update_info)

    def _receive(self, info: Mapping[str, Any]) -> None:
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        for name, dtype, shape in zip(info["names"], info["dtypes"], info["shapes"], strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast([tensor], options).wait()
            self.received[name] = tensor


def test_gloo_hands_over_every_tensor_and_joins_anew_after_a_restart() -> None:
    async def work() -> None:
        transport = GlooTransport(workers=1, timeout_s=10.0)
        first, second = Worker("http://127.0.0.1:1"), Worker("http://127.0.0.1:2")
        for life in ("1", "1", "2"):
            for worker in (first, second):
                worker.received.clear()
                await transport.join(worker, life)
            staged = transport.stage(BUCKET, None)
            await asyncio.gather(*(transport.send(worker, staged) for worker in (first, second)))
            for worker in (first, second):
                assert worker.received.keys() == {"a", "b"}
                assert all(torch.equal(worker.received[name], tensor) for name, tensor in BUCKET)
        assert (first.joins, second.joins) == (2, 2)
        transport.close()

    asyncio.run(work())


def test_a_bucket_in_shared_memory_is_gone_after_it_was_taken(tmp_path: Path) -> None:
    transport = FileTransport("shm")
    assert transport.folder is not None
    staged = transport.stage(BUCKET, None)
    assert staged.parent == transport.folder
    assert torch.equal(load_file(staged)["a"], BUCKET[0][1])
    transport.unstage(staged)
    assert list(transport.folder.iterdir()) == []
    transport.close()
    assert not transport.folder.exists()


def test_shared_memory_of_dead_processes_is_freed(tmp_path: Path) -> None:
    of_nobody, of_this_one = tmp_path / "cascade-999999999-x", tmp_path / f"cascade-{os.getpid()}-y"
    for folder in (of_nobody, of_this_one):
        folder.mkdir()
    made = shared_folder(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {of_this_one.name, made.name}


def test_the_disk_transport_sends_the_restart_copy(tmp_path: Path) -> None:
    transport, writer = FileTransport("disk"), CopyWriter(tmp_path, 1, 3)
    copied = writer.write(BUCKET)
    assert transport.stage(BUCKET, copied) == copied
    transport.unstage(copied)
    assert load_file(copied)["b"].dtype == torch.bfloat16


def test_two_whole_copies_are_kept_and_none_of_a_half_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors.index.json"):
        (base / name).write_text("{}")
    (tmp_path / "weights" / "v1.000000").mkdir(parents=True)  # half written by a run that was killed
    for load, version in ((1, 1), (1, 9), (1, 10), (2, 1)):
        writer = CopyWriter(tmp_path / "weights", load, version)
        writer.write(BUCKET)
        copy = writer.commit(base)
    assert sorted(folder.name for folder in (tmp_path / "weights").iterdir()) == ["v1.000010", "v2.000001"]
    assert sorted(file.name for file in copy.iterdir()) == [READY, "bucket_00000.safetensors", "config.json"]
    writer = CopyWriter(tmp_path / "weights", 2, 2)
    writer.write(BUCKET)
    writer.discard()
    assert len(list((tmp_path / "weights").iterdir())) == 2
    assert Weights(2, 1, base, copy).files() == [copy / "bucket_00000.safetensors"]
    assert Weights(2, 2, base, copy).files() is None  # an older copy is not these weights
    weights = Weights(2, 12, base, owner="5f3a")
    assert weights.label == "5f3a.2.12"
    assert [weights.numbers_in(label) for label in (weights.label, "5f3a.3.0", "0000.2.12", "2.12", "default")] == [
        (2, 12),
        (3, 0),
        None,
        None,
        None,
    ]


def test_the_address_is_one_that_the_server_can_reach() -> None:
    assert reachable_host("http://127.0.0.1:8000") == "127.0.0.1"
    assert reachable_host("http://localhost:8000/") == "127.0.0.1"


@pytest.mark.slow
def test_gpu_payloads_are_vllms() -> None:
    nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    ipc = pytest.importorskip("vllm.distributed.weight_transfer.ipc_engine")
    info = nccl.NCCLWeightTransferInitInfo(**nccl_init_info("10.0.0.1", 29500, 2))
    assert (info.world_size, info.rank_offset, info.packed) == (3, 1, False)
    update = nccl.NCCLWeightTransferUpdateInfo(**update_payload(BUCKET))
    assert (update.names, update.dtype_names, update.shapes) == (["a", "b"], ["float32", "bfloat16"], [[2, 3], [4]])
    payload = ipc_payload(BUCKET, [[{"gpu0": 1}, {"gpu0": 2}], [{"gpu1": 3}, {"gpu1": 4}]])
    assert payload.keys() <= ipc.IPCWeightTransferUpdateInfo.__dataclass_fields__.keys()
    handles = pickle.loads(base64.b64decode(payload["ipc_handles_pickled"]))
    assert handles == [{"gpu0": 1, "gpu1": 3}, {"gpu0": 2, "gpu1": 4}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without GPUs")
@pytest.mark.parametrize("transport", ("nccl", "ipc"))
def test_gpu_transports_without_a_gpu_are_refused(transport: Any) -> None:
    with pytest.raises(EngineError, match=rf"transport={transport} needs a GPU"):
        gpu_transport(RolloutConfig(transport=transport))


def test_replicas_take_the_gpus_behind_the_training_processes() -> None:
    config = RolloutConfig(tensor_parallel=2)
    environment = {"CUDA_VISIBLE_DEVICES": "7,6,5,4,3,2", "LOCAL_WORLD_SIZE": "2"}
    assert [gpus(i, config, environment) for i in (0, 1)] == [["5", "4"], ["3", "2"]]
    assert gpus(0, RolloutConfig(tensor_parallel=2, transport="ipc"), environment) == ["7", "6"]
    with pytest.raises(EngineError, match="Replica 2 needs 2 GPUs behind the first 6 of 6"):
        gpus(2, config, environment)
