"""The engine is what was asked for, or says what it is not; and training reaches every parameter, or says which not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.errors import EngineError
from cascade.policy import checks
from cascade.policy.checks import check_engine, trainable_names
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.moved import MovedCheck
from tests.tiny_models import batches, policy_config, sequences, sft_stage, write_model

STEP = {"learning_rate": 1e-3, "skipped": 0.0}


def engine(folder: Path, kind: str, stage: int, **keys: Any) -> DeepSpeedPolicy:
    config = policy_config(kind, zero_stage=stage, **keys)
    return DeepSpeedPolicy(folder, config, sft_stage(weight_decay=0.1), freeze_router=True)


@pytest.mark.parametrize("stage", (0, 1, 2, 3))
def test_what_is_not_as_asked_is_said(model_folder: Callable[[str], Path], stage: int) -> None:
    policy = engine(model_folder("qwen3_moe"), "qwen3_moe", stage)
    config = policy_config("qwen3_moe", zero_stage=stage)
    optimizer, model = policy.engine.optimizer, policy.model

    def check(names: Any = None, **keys: Any) -> None:
        asked = {**vars(config), **keys}
        check_engine(policy.engine, model, type(config)(**asked), names or trainable_names(model), policy.leaves)

    check()
    router = policy.frozen[0]
    assert router not in trainable_names(model)
    with pytest.raises(EngineError, match=f"{router} is frozen, against the recipe"):
        check(trainable_names(model) | {router})
    with pytest.raises(EngineError, match=r"norm.weight is trained, against the recipe"):
        check(trainable_names(model) - {"model.norm.weight"})
    with pytest.raises(EngineError, match="is not in bf16"):
        check(dtype="bf16")
    if stage:
        with pytest.raises(EngineError, match="state is on the device"):
            check(offload_optimizer="cpu")
    with pytest.raises(EngineError, match="partitioned"):
        check(zero_stage=3 if stage < 3 else 0)
    if stage == 3:
        with pytest.raises(EngineError, match="parameters are on the device"):
            check(offload_parameters="cpu")
        policy.leaves[1].module._z3_leaf = False  # pyright: ignore
        with pytest.raises(EngineError, match=f"{policy.leaves[1].name} is not gathered as one"):
            check()
        shard = model.model.norm.weight.ds_tensor
        model.model.norm.weight.ds_tensor = torch.cat([shard, shard])
        model.model.norm.weight.ds_tensor.final_location = None
        with pytest.raises(EngineError, match=r"norm.weight has 32 elements, of which processes hold 64"):
            check()
    if stage in (1, 2):
        optimizer.single_partition_of_fp32_groups[0] = optimizer.single_partition_of_fp32_groups[0][:-1]
        with pytest.raises(EngineError, match="shards of group 0 are -1 elements off"):
            check()
    policy.close()


def test_a_parameter_that_the_optimiser_was_not_given_is_said(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = engine(model_folder("llama"), "llama", 1)
    groups = policy.engine.optimizer.bit16_groups
    monkeypatch.setattr(checks, "_parameter_groups", lambda *_: [groups[0][1:], *groups[1:]])
    with pytest.raises(EngineError, match=r"holds 19 of 20 parameters, e.g. without model.embed_tokens.weight"):
        check_engine(policy.engine, policy.model, policy_config("llama"), None, [])
    policy.close()


def steps(policy: DeepSpeedPolicy, kind: str, moved: MovedCheck, count: int = 4, **keys: Any) -> list[dict[str, float]]:
    """Trains, and returns what the check adds to every step's metrics."""
    found = []
    for step in range(count):
        for batch in batches(sequences(2, seed=step, **keys), policy_config(kind)):
            log_probs, _ = policy.log_probs(batch)
            policy.backward(-(log_probs * batch.token_weight).sum())
        policy.step(1e-3)
        found.append(moved.after(STEP))
    return found


@pytest.mark.parametrize("stage", (0, 1, 2, 3))
def test_a_parameter_that_training_does_not_reach_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: int
) -> None:
    """Its gradient is lost on the way; weight decay moves it all the same."""
    policy = engine(write_model(tmp_path / "m", "qwen3_moe"), "qwen3_moe", stage)
    moved = MovedCheck(policy)
    policy.model.model.layers[1].self_attn.q_proj.weight.register_hook(torch.zeros_like)
    assert steps(policy, "qwen3_moe", moved) == [{}, {}, {"unmoved_parameters": 1.0}, {}]
    assert "1 of 23 parameters in training have not moved by a gradient after 3 steps" in caplog.text
    assert caplog.text.count("model.layers.1.self_attn.q_proj.weight") == 1
    policy.close()


@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h"))
def test_experts_without_a_token_are_named_and_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    key = {"qwen3_moe": "num_experts", "nemotron_h": "n_routed_experts"}[kind]
    policy = engine(write_model(tmp_path / "m", kind, **{key: 64}), kind, 3)
    moved = MovedCheck(policy)
    caplog.set_level(logging.INFO, "cascade.policy.moved")
    assert steps(policy, kind, moved, 3, vocabulary=2) == [{}, {}, {}]
    assert "have not moved" not in caplog.text
    assert "No token has reached experts" in caplog.text
    policy.close()


def test_steps_that_move_nothing_do_not_count(model_folder: Callable[[str], Path]) -> None:
    policy = engine(model_folder("llama"), "llama", 1, dtype="bf16")
    moved = MovedCheck(policy)
    for metrics in ({"learning_rate": 0.0}, {"learning_rate": 1e-3, "skipped": 1.0}) * 3:
        assert moved.after(metrics) == {}
    assert steps(policy, "llama", moved, 3) == [{}, {}, {}]  # bf16: it is the fp32 shards that are looked at
    policy.close()
