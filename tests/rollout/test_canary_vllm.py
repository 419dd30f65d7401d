"""The canary against real vLLM: what can go wrong between a publish and its kernels is planted, and caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.errors import EngineError
from cascade.models.published import blank_model, published_weights
from cascade.rollout.canary import canary_sequences, check_canary
from tests.models.tiny import LocalPolicy
from tests.tiny_models import TOKENIZER, policy_config, write_model
from tests.vllm_engine import (
    HEAD,
    changed_model,
    needs_vllm,
    new_engine,
    tiny_folder,
    vllm_engine,
    without_shared_engine,
)
from tests.vllm_engine import LocalPolicy as Publishing

pytestmark = needs_vllm
Stream = dict[str, torch.Tensor]
OLD = "model.layers.1.self_attn.q_proj.weight"


def stream_of(model: Any, kind: str) -> Stream:
    names = blank_model(tiny_folder(kind))
    return {name: tensor.contiguous() for name, tensor in published_weights(names, Publishing(model).weights())}


def checked(kind: str, plant: Callable[[Stream, Stream], None]) -> dict[str, float]:
    """The canary's numbers after the engine took over a changed model's weights as `plant` left them."""
    engine, model = vllm_engine(kind), changed_model(kind, 1)
    stream, before = stream_of(model, kind), stream_of(changed_model(kind, 1, scale=0.0), kind)
    plant(stream, before)
    engine._vllm.replace(iter([list(stream.items())]), "1.1")
    policy: Any = LocalPolicy(model)
    return check_canary(engine, policy, canary_sequences(len(TOKENIZER), 40), policy_config(kind), 0)


def nothing(stream: Stream, before: Stream) -> None:
    pass


def without_the_head(stream: Stream, before: Stream) -> None:
    del stream["lm_head.weight"]  # as `named_parameters` and `save_pretrained` have it


def expert_out_of_place(stream: Stream, before: Stream) -> None:
    one, other = (f"model.layers.0.mlp.experts.{i}.down_proj.weight" for i in (0, 1))
    stream[one], stream[other] = stream[other], stream[one]


def tensor_left_as_it_was(stream: Stream, before: Stream) -> None:
    stream[OLD] = before[OLD]


def rounded_to_bf16(stream: Stream, before: Stream) -> None:
    stream.update({name: tensor.bfloat16().float() for name, tensor in stream.items()})


@pytest.mark.parametrize("kind", ("llama", "qwen3_moe"))
def test_sound_weights_pass(kind: str) -> None:
    assert checked(kind, nothing)["canary/max_abs_log_prob_gap"] < 1e-5


@pytest.mark.parametrize("plant", (expert_out_of_place, tensor_left_as_it_was, rounded_to_bf16))
def test_planted_corruption_is_caught(plant: Callable[[Stream, Stream], None]) -> None:
    with pytest.raises(EngineError, match="does not have the policy's weights"):
        checked("qwen3_moe", plant)


def test_a_tied_head_left_stale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked("llama", without_the_head)
    monkeypatch.setattr("cascade.serving.worker.repack_head", lambda model: None)
    with pytest.raises(EngineError, match="does not have the policy's weights"):
        checked("llama", without_the_head)


@pytest.mark.slow
def test_experts_that_are_not_repacked_are_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With experts of 32 rows; narrower ones are padded, and vLLM itself cannot load them again."""
    folder = write_model(tmp_path / "model", "qwen3_moe", moe_intermediate_size=32, **HEAD)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine, policy = vllm_engine("qwen3_moe"), cast("Any", LocalPolicy(model))
    engine.load(folder)
    asked = (canary_sequences(len(TOKENIZER), 40), policy_config("qwen3_moe"), 0)
    engine.publish(Publishing(model), 1)
    check_canary(engine, policy, *asked)
    monkeypatch.setattr("cascade.serving.worker.unpack_experts", lambda model: None)
    engine.publish(Publishing(model), 2)
    with pytest.raises(EngineError, match="does not have the policy's weights"):
        check_canary(engine, policy, *asked)


def test_an_engine_of_another_dtype_is_caught() -> None:
    without_shared_engine()
    engine = new_engine("qwen3_moe", dtype="bf16")
    engine.load(tiny_folder("qwen3_moe"))
    try:
        policy: Any = LocalPolicy(changed_model("qwen3_moe", 1, scale=0.0))
        with pytest.raises(EngineError, match="another dtype"):
            check_canary(engine, policy, canary_sequences(len(TOKENIZER), 40), policy_config("qwen3_moe"), 0)
    finally:
        engine.close()
