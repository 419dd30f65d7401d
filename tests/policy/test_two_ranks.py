"""Two processes train, save, load and export what one does, also while one of them has no rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cascade.policy.deepspeed import DeepSpeedPolicy
from tests.policy.two_ranks import train
from tests.processes import ROOT, torchrun
from tests.tiny_models import ROWS_OF_STEPS, policy_config, sft_stage

FAST = [("qwen3_moe", stage) for stage in (0, 1, 2, 3)]
SLOW = [("nemotron_h", stage) for stage in (0, 1, 2, 3)]
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.fixture(scope="module")
def launched(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> the folder that `two_ranks.py` left after training it under every ZeRO stage."""
    done: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp("two_ranks")
            asked = [f"{kind}:{stage}" for stage in (0, 1, 2, 3)]
            torchrun(
                2, str(ROOT / "tests/policy/two_ranks.py"), str(model_folder(kind).parent), str(done[kind]), *asked
            )
        return done[kind]

    return get


@pytest.fixture(scope="module")
def alone(model_folder: Callable[[str], Path]) -> Callable[[str], tuple[list[float], dict[str, torch.Tensor]]]:
    """Kind -> losses and weights of the same steps in this one process."""

    @functools.cache
    def get(kind: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        config = policy_config(kind, zero_stage=0)
        policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
        losses = train(policy, kind, range(len(ROWS_OF_STEPS)))
        weights = {name: tensor.detach().clone() for name, tensor in policy.model.state_dict().items()}
        policy.close()
        return losses, weights

    return get


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_two_processes_train_what_one_does_even_where_one_has_no_rows(
    launched: Callable[[str], Path], alone: Any, kind: str, stage: int
) -> None:
    losses, expected = alone(kind)
    seen = json.loads((launched(kind) / f"{kind}_{stage}.json").read_text())
    assert seen["losses"] == pytest.approx(losses, abs=1e-5)
    exported = AutoModelForCausalLM.from_pretrained(
        launched(kind) / f"{kind}_{stage}", dtype=torch.float32
    ).state_dict()
    assert set(exported) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(exported[name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_two_processes_go_on_from_a_saved_state_bit_for_bit(
    launched: Callable[[str], Path], kind: str, stage: int
) -> None:
    seen = json.loads((launched(kind) / f"{kind}_{stage}.json").read_text())
    assert len(seen["again"]) == 2
    assert seen["again"] == seen["losses"][2:]


def test_two_processes_export_the_files_that_one_does(launched: Callable[[str], Path]) -> None:
    folder = launched("qwen3_moe") / "qwen3_moe_3"
    assert (folder / "COMPLETE").is_file()
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in load_file(folder / "model.safetensors")
