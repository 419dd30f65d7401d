"""Saving and restoring a stage's state: whole, of this stage, of this sharding, or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade import checkpoint
from cascade.atomic import COMPLETE
from cascade.checkpoint import StageState, complete_checkpoints
from cascade.errors import EngineError
from cascade.policy.deepspeed import DeepSpeedPolicy
from tests.tiny_models import batches, policy_config, sequences, sft_stage, write_model

SHARDING = {"zero_stage": 1, "dtype": "fp32", "processes": 1}


def state(step: int) -> StageState:
    return StageState("me", step, 1.5 * step, {"math": {"epoch": step, "at": 3}}, SHARDING)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeepSpeedPolicy]:
    folder = write_model(tmp_path_factory.mktemp("model") / "model", "llama")
    made = DeepSpeedPolicy(folder, policy_config("llama"), sft_stage(), freeze_router=False)
    yield made
    made.close()


def move(policy: DeepSpeedPolicy) -> dict[str, torch.Tensor]:
    """One step of training; the weights after it."""
    for batch in batches(sequences(3), policy_config("llama")):
        log_probs, _ = policy.log_probs(batch)
        policy.backward(-(log_probs * batch.token_weight).sum())
    policy.step(1e-2)
    return weights(policy)


def weights(policy: DeepSpeedPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy.weights()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_state_and_weights_come_back(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    saved = move(policy)
    checkpoint.save(policy, tmp_path, state(2))
    assert not same(move(policy), saved)
    assert checkpoint.restore(policy, tmp_path, "me", SHARDING) == state(2)
    assert same(weights(policy), saved)


def test_nothing_saved_is_nothing_restored(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    assert checkpoint.restore(policy, tmp_path / "none", "me", SHARDING) is None


def test_a_half_written_checkpoint_is_ignored(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    at_two = move(policy)
    checkpoint.save(policy, tmp_path, state(2))
    move(policy)
    checkpoint.save(policy, tmp_path, state(4))
    (tmp_path / "step_000004" / COMPLETE).unlink()
    shutil.copytree(tmp_path / "step_000002", tmp_path / ".step_000006.tmp")  # killed before the rename
    (tmp_path / "step_000008").mkdir()
    restored = checkpoint.restore(policy, tmp_path, "me", SHARDING)
    assert restored is not None
    assert restored.step == 2
    assert same(weights(policy), at_two)


def test_a_checkpoint_is_written_over_what_a_kill_left(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    (tmp_path / ".step_000002.tmp").mkdir()
    (tmp_path / ".step_000002.tmp" / "rubbish").write_text("half")
    (tmp_path / "step_000002").mkdir()
    checkpoint.save(policy, tmp_path, state(2))
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_000002"]
    assert not (tmp_path / "step_000002" / "rubbish").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["step_000002"]


def test_two_checkpoints_are_kept_and_what_kills_left_goes(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    (tmp_path / ".step_000001.tmp").mkdir()
    (tmp_path / "step_000001").mkdir()
    for step in (2, 4, 6, 10):
        checkpoint.save(policy, tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000006", "step_000010"]


def test_steps_beyond_six_digits_are_in_order(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path, state(999_999))
    checkpoint.save(policy, tmp_path, state(1_000_000))
    restored = checkpoint.restore(policy, tmp_path, "me", SHARDING)
    assert restored is not None
    assert restored.step == 1_000_000


@pytest.mark.parametrize(("key", "value"), [("zero_stage", 3), ("dtype", "bf16"), ("processes", 2)])
def test_another_sharding_is_refused_in_words_and_before_anything_is_loaded(
    policy: DeepSpeedPolicy, tmp_path: Path, key: str, value: Any
) -> None:
    checkpoint.save(policy, tmp_path, state(2))
    now = move(policy)
    with pytest.raises(EngineError, match=f"was saved with another {key}") as caught:
        checkpoint.restore(policy, tmp_path, "me", {**SHARDING, key: value})
    assert str(tmp_path) in str(caught.value)
    assert same(weights(policy), now)


def test_a_real_engine_of_another_sharding_refuses_in_words_too(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    """DeepSpeed itself would fail inside `load_checkpoint`, with an assertion."""
    checkpoint.save(policy, tmp_path, state(2))
    folder = write_model(tmp_path / "model", "llama")
    other = DeepSpeedPolicy(folder, policy_config("llama", zero_stage=3), sft_stage(), freeze_router=False)
    with pytest.raises(EngineError, match="was saved with another zero_stage"):
        checkpoint.restore(other, tmp_path, "me", {**SHARDING, "zero_stage": 3})
    other.close()


def test_a_checkpoint_of_another_stage_is_refused(policy: DeepSpeedPolicy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path, dataclasses.replace(state(2), identity="other"))
    with pytest.raises(EngineError, match="belongs to another stage"):
        checkpoint.restore(policy, tmp_path, "me", SHARDING)
