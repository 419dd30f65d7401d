"""Offload changes where things are, not what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.commands import checked_recipe
from cascade.errors import ConfigError, EngineError
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.engine_config import engine_config
from cascade.policy.offload import require_offload
from tests.processes import ROOT
from tests.tiny_models import policy_config, sft_stage

SLOW = pytest.mark.slow
OFFLOADED = [
    (1, {"offload_optimizer": "cpu"}),
    pytest.param(2, {"offload_optimizer": "cpu"}, marks=SLOW),
    pytest.param(3, {"offload_optimizer": "cpu"}, marks=SLOW),
    pytest.param(3, {"offload_parameters": "cpu"}, marks=SLOW),
    (3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}),
]


@pytest.mark.parametrize(("stage", "keys"), OFFLOADED)
def test_offload_trains_as_without_and_goes_on_bit_for_bit(
    model_folder: Callable[[str], Path],
    steps: Any,
    train: Any,
    snapshot: Any,
    tmp_path: Path,
    stage: int,
    keys: dict[str, Any],
) -> None:
    def fresh(**more: Any) -> DeepSpeedPolicy:
        config = policy_config("qwen3_moe", zero_stage=stage, **more)
        return DeepSpeedPolicy(
            model_folder("qwen3_moe"), config, sft_stage(weight_decay=0.1, learning_rate=1e-2), freeze_router=True
        )

    policy = fresh()
    expected, weights = train(policy, steps("qwen3_moe", 4), 1e-2), snapshot(policy)
    policy.close()

    policy = fresh(**keys)
    assert type(policy.engine.optimizer.optimizer) is torch.optim.AdamW
    trace = train(policy, steps("qwen3_moe", 2), 1e-2)
    policy.save(tmp_path / "saved", {"step": 2})
    more = train(policy, steps("qwen3_moe", 4)[2:], 1e-2)
    assert trace.losses + more.losses == pytest.approx(expected.losses, abs=1e-6)
    assert trace.norms + more.norms == pytest.approx(expected.norms, rel=1e-5)
    after = snapshot(policy)
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)
    policy.close()

    policy = fresh(**keys)
    assert policy.load(tmp_path / "saved") == {"step": 2}
    assert train(policy, steps("qwen3_moe", 4)[2:], 1e-2) == more
    assert all(torch.equal(tensor, after[name]) for name, tensor in snapshot(policy).items())
    policy.close()


def test_the_json_says_where_things_are(tmp_path: Path) -> None:
    config = engine_config(policy_config("llama", zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu"))
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert "aio" not in config
    disk = {"offload_optimizer": "nvme", "offload_parameters": "nvme", "offload_folder": str(tmp_path)}
    config = engine_config(policy_config("llama", zero_stage=3, **disk))
    for section in ("offload_optimizer", "offload_param"):
        assert config["zero_optimization"][section]["nvme_path"] == str(tmp_path)
    assert config["aio"]["queue_depth"] > 1


def test_offload_that_only_a_users_json_asks_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}))
    with pytest.raises(ConfigError, match=r"offload_optimizer.device` to 'cpu', but the recipe makes it 'none'"):
        engine_config(policy_config("llama", zero_stage=2, deepspeed=str(file)))
    file.write_text(json.dumps({"zero_optimization": {"offload_optimizer": {"device": "auto", "fast_init": True}}}))
    merged = engine_config(policy_config("llama", zero_stage=2, offload_optimizer="cpu", deepspeed=str(file)))
    assert merged["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True, "fast_init": True}


def test_a_disk_that_this_machine_cannot_write_to_at_once_is_refused_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.ops.op_builder.async_io import AsyncIOBuilder

    config = policy_config("llama", zero_stage=3, offload_optimizer="nvme", offload_folder=str(tmp_path))
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: False)
    with pytest.raises(EngineError, match="Install libaio"):
        DeepSpeedPolicy(tmp_path / "no_model", config, sft_stage(), freeze_router=False)
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: True)
    require_offload(config)
    elsewhere = policy_config("llama", zero_stage=3, offload_optimizer="nvme", offload_folder=str(tmp_path / "none"))
    with pytest.raises(EngineError, match="is no folder on this machine"):
        require_offload(elsewhere)


SMOKE = f"recipe={ROOT / 'recipes' / 'smoke.yaml'}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("policy.zero_stage=2 policy.offload_parameters=cpu", "`policy.offload_parameters` .* needs ZeRO-3"),
        ("policy.zero_stage=0 policy.offload_optimizer=cpu", "`policy.offload_optimizer` .* needs ZeRO 1 to 3"),
        ("policy.zero_stage=3 policy.offload_parameters=nvme", "`policy.offload_folder` does not say where"),
        ("policy.zero_stage=3 policy.offload_folder=/tmp", "`policy.offload_folder` .* has no effect"),
    ],
)
def test_keys_that_cannot_go_together_are_refused_on_any_laptop(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked_recipe([SMOKE, *words.split()])
