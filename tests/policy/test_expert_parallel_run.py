"""A whole recipe with experts shared over two processes is the recipe on one; resuming needs the same sharing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cascade import checkpoint
from cascade.atomic import commit_folder, write_json
from cascade.errors import EngineError
from cascade.stages.train import StageJob
from tests.processes import STAGES, metrics, shared_run
from tests.tiny_models import policy_config

TWO = ("launch=torchrun", "launch.threads=1", "launch.processes=2")


@pytest.mark.slow
def test_sft_grpo_and_mopd_with_shared_experts_are_those_of_one_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    temporary = tmp_path_factory.getbasetemp()
    one = shared_run(temporary, "one_process")
    two = shared_run(temporary, "two_processes_experts", *TWO, "policy.zero_stage=2", "policy.expert_parallel=2")
    trained = 0
    for stage in STAGES:
        for alone, together in zip(metrics(one, stage), metrics(two, stage), strict=True):
            for exact in ("step", "tokens", "reward"):
                assert together.get(exact) == alone.get(exact), (stage, alone["step"])
            assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4), (stage, alone["step"])
            assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3), (stage, alone["step"])
            trained += alone["grad_norm"] > 0
        expected, found = (load_file(run / "stages" / stage / "model" / "model.safetensors") for run in (one, two))
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0, msg=f"{stage} {name}")
        scores = [json.loads((run / "stages" / stage / "evaluation.json").read_text())["scores"] for run in (one, two)]
        assert scores[0] == scores[1]
    assert trained >= 12  # of 13


def sharding(expert_parallel: int) -> dict[str, Any]:
    policy = policy_config("qwen3_moe", expert_parallel=expert_parallel)
    job: Any = SimpleNamespace(recipe=SimpleNamespace(policy=policy))
    getter = StageJob.sharding.fget
    assert getter is not None
    return getter(job)


def test_a_state_saved_with_other_shares_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saving").mkdir()
    write_json(tmp_path / "saving" / checkpoint.LABEL, {"identity": "one", "sharding": sharding(2)})
    commit_folder(tmp_path / "saving", tmp_path / "step_000001")
    policy: Any = None  # nothing of it is asked for before the label is right
    with pytest.raises(EngineError, match="saved with another expert_parallel"):
        checkpoint.restore(policy, tmp_path, "one", sharding(4))
