"""Two processes train, save, load and export what one does, also while one of them has no rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cascade.policy.deepspeed import DeepSpeedPolicy
from tests.processes import ROOT, torchrun
from tests.tiny_models import ROWS_OF_STEPS, batches, policy_config, sequences, sft_stage

KINDS = ("qwen3_moe", "nemotron_h")
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def two(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `two_ranks.py` left."""
    out = tmp_path_factory.mktemp("two_ranks")
    models = {model_folder(kind).parent for kind in KINDS}
    torchrun(2, str(ROOT / "tests/policy/two_ranks.py"), str(models.pop()), str(out), *KINDS)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does_even_where_one_has_no_rows(
    two: Path, model_folder: Callable[[str], Path], kind: str
) -> None:
    config = policy_config(kind, zero_stage=0)
    policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
    losses = []
    for step, rows in enumerate(ROWS_OF_STEPS):
        loss = 0.0
        for batch in batches(sequences(rows, seed=step), config):
            log_probs, _ = policy.log_probs(batch)
            part = -(log_probs * batch.token_weight).sum()
            policy.backward(part)
            loss += part.item()
        policy.step(1e-3)
        losses.append(loss)
    expected = {name: tensor.detach().clone() for name, tensor in policy.model.state_dict().items()}
    policy.close()
    for stage in STAGES:
        seen = json.loads((two / f"{kind}_{stage}.json").read_text())
        assert seen["losses"] == pytest.approx(losses, abs=1e-5), stage
        exported = reloaded(two / f"{kind}_{stage}")
        assert set(exported) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(exported[name], tensor, atol=1e-4, rtol=0, msg=f"{name} under ZeRO-{stage}")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_go_on_from_a_saved_state_bit_for_bit(two: Path, kind: str, stage: int) -> None:
    seen = json.loads((two / f"{kind}_{stage}.json").read_text())
    assert len(seen["again"]) == 2
    assert seen["again"] == seen["losses"][2:]


def test_two_processes_export_the_files_that_one_does(two: Path) -> None:
    folder = two / "qwen3_moe_3"
    assert (folder / "COMPLETE").is_file()
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in load_file(folder / "model.safetensors")


def reloaded(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())
