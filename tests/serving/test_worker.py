"""Inside vLLM: weights are taken over completely and exactly, or the update raises; and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from cascade.errors import EngineError
from cascade.models.published import blank_model, published_weights
from cascade.serving.replica import free_port
from cascade.serving.transports import described, open_group
from tests.conftest import REPOSITORY
from tests.tiny_models import sequences, write_model
from tests.vllm_engine import (
    HEAD,
    LocalPolicy,
    changed_model,
    largest_error,
    needs_vllm,
    new_engine,
    tiny_folder,
    vllm_engine,
    without_shared_engine,
)

pytestmark = needs_vllm
EXACT = 1e-5
Weights = list[tuple[str, torch.Tensor]]


def published(model: Any, kind: str) -> Weights:
    return [
        (name, tensor.contiguous())
        for name, tensor in published_weights(blank_model(tiny_folder(kind)), LocalPolicy(model).weights())
    ]


def take_over(engine: Any, weights: Weights) -> None:
    """One update of three buckets, past the engine's own checks of names."""
    third = -(-len(weights) // 3)
    with engine._whole("The test's update failed."):
        engine._vllm.replace(iter([weights[:third], weights[third : 2 * third], weights[2 * third :]]), "1.1")


def prepared(kind: str) -> tuple[Any, Any, Weights]:
    """The engine, a model whose weights it does not have, and these under published names."""
    model = changed_model(kind, 1)
    return vllm_engine(kind), model, published(model, kind)


@pytest.mark.parametrize("kind", (pytest.param("llama", marks=pytest.mark.slow), "qwen3_moe"))
def test_the_order_of_the_stream_does_not_matter(kind: str) -> None:
    engine, model, weights = prepared(kind)
    take_over(engine, weights[::-1])
    assert largest_error(engine, model, sequences(5)) < EXACT


def test_weights_come_as_files(tmp_path: Path) -> None:
    engine, model, weights = prepared("qwen3_moe")
    paths = [str(tmp_path / f"bucket_{i:05d}.safetensors") for i in range(2)]
    save_file(dict(weights[:20]), paths[0])
    save_file(dict(weights[20:]), paths[1])
    llm = engine._vllm._llm
    llm.init_weight_transfer_engine({"init_info": {"kind": "files"}})
    llm.start_weight_update()
    for path in paths:
        llm.update_weights({"update_info": {"kind": "files", "paths": [path]}})
    llm.finish_weight_update("1.4")
    assert llm.get_weight_version() == "1.4"
    assert largest_error(engine, model, sequences(5)) < EXACT


def test_weights_come_as_gloo_broadcasts() -> None:
    engine, model, weights = prepared("qwen3_moe")
    llm, port, timeout = engine._vllm._llm, free_port(), timedelta(seconds=60)

    def trainer() -> None:
        group = open_group("127.0.0.1", port, 2, timeout)
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        for _, tensor in weights:
            group.broadcast([tensor], options).wait(timeout)

    thread = threading.Thread(target=trainer)
    thread.start()
    info = {"kind": "gloo", "host": "127.0.0.1", "port": port, "rank_offset": 1, "world_size": 2}
    llm.init_weight_transfer_engine({"init_info": info})
    llm.start_weight_update()
    llm.update_weights({"update_info": {"kind": "gloo", **described(weights)}})
    llm.finish_weight_update("1.5")
    thread.join(60)
    assert largest_error(engine, model, sequences(5)) < EXACT


def test_a_name_that_the_model_lacks_raises() -> None:
    engine, _, weights = prepared("qwen3_moe")
    unknown = ("model.layers.0.mlp.experts.4.up_proj.weight", weights[0][1])  # there are experts 0 to 3
    with pytest.raises(EngineError, match=r"experts\.4\.up_proj\.weight was published, which vLLM's Qwen3Moe"):
        take_over(engine, [*weights, unknown])


def test_a_weight_that_comes_twice_raises() -> None:
    engine, _, weights = prepared("qwen3_moe")
    with pytest.raises(EngineError, match="was published twice"):
        take_over(engine, [weights[5], *weights])


@pytest.mark.parametrize(
    ("kind", "lost", "named"),
    (
        ("qwen3_moe", "model.layers.1.mlp.experts.2.up_proj.weight", r"model\.layers\.1\.mlp\.experts"),
        pytest.param(
            "qwen3_moe",
            "model.layers.0.self_attn.k_proj.weight",
            r"model\.layers\.0\.self_attn\.qkv_proj \(\d+ of \d+",
            marks=pytest.mark.slow,
        ),
        pytest.param("llama", "model.embed_tokens.weight", r"model\.embed_tokens", marks=pytest.mark.slow),
    ),
)
def test_a_weight_that_does_not_arrive_is_named(kind: str, lost: str, named: str) -> None:
    engine, _, weights = prepared(kind)
    with pytest.raises(EngineError, match=rf"did not arrive for {named}.*{lost}"):
        take_over(engine, [pair for pair in weights if pair[0] != lost])


def test_a_tied_head_need_not_be_in_the_stream() -> None:
    engine, model, weights = prepared("llama")
    take_over(engine, [pair for pair in weights if pair[0] != "lm_head.weight"])
    assert largest_error(engine, model, sequences(5)) < EXACT


def test_without_its_repair_a_tied_head_stays_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, model, weights = prepared("llama")
    monkeypatch.setattr("cascade.serving.worker.repack_head", lambda _: None)
    take_over(engine, [pair for pair in weights if pair[0] != "lm_head.weight"])
    assert largest_error(engine, model, sequences(5)) > 0.1


@pytest.mark.slow
def test_without_their_repair_experts_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With experts of 32 rows; narrower ones are padded, and vLLM itself cannot load them again."""
    engine, _, _ = prepared("qwen3_moe")
    engine.load(write_model(tmp_path / "model", "qwen3_moe", moe_intermediate_size=32, **HEAD))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    documents = sequences(5)
    engine.publish(LocalPolicy(model), 1)
    assert largest_error(engine, model, documents) < EXACT
    monkeypatch.setattr("cascade.serving.worker.unpack_experts", lambda _: None)
    engine.publish(LocalPolicy(model), 2)
    assert largest_error(engine, model, documents) > 0.1


@pytest.mark.slow
def test_bf16_weights_arrive_bit_for_bit() -> None:
    """What was published scores as in a vLLM that was started from a folder of it, to the last bit."""
    without_shared_engine()
    engine = new_engine("qwen3_moe", dtype="bf16")
    engine.load(tiny_folder("qwen3_moe", seed=1))
    documents, wanted = sequences(5), tiny_folder("qwen3_moe")
    engine.publish(LocalPolicy(AutoModelForCausalLM.from_pretrained(wanted, dtype=torch.bfloat16)), 1)
    found = engine.score(documents, 1.0)
    engine.close()
    engine.load(wanted)
    assert engine.score(documents, 1.0) == found
    engine.close()


def test_register_twice_is_register_once() -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from cascade.serving.worker import BACKEND, register

    register()
    register()
    assert BACKEND in WeightTransferEngineFactory._registry


CHILD = (
    "from cascade.serving.worker import register; register(); print('ready', flush=True); import time; time.sleep(99)"
)
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(99)"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_a_replicas_process_dies_with_its_killed_parent() -> None:
    environment = {**os.environ, "CASCADE_REPLICA": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    ended = threading.Event()
    output = parent.stdout
    threading.Thread(target=lambda: (output.read(), ended.set()), daemon=True).start()
    assert ended.wait(20)  # the pipe is closed when the child, who has its other end, is gone
    parent.wait(10)
