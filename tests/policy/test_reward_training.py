"""DeepSpeed trains the reward model that plain PyTorch would, on one process and on two, under all ZeRO stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from cascade.models.experts import freeze_routers
from cascade.models.reward import load_reward_model
from tests.policy.reward_two_ranks import PAIRS_OF_STEPS, fresh, pairs, train
from tests.processes import ROOT, torchrun
from tests.tiny_models import policy_config

STAGES = (0, 1, 2, 3)
TOGETHER = ("1", "2", "3", "2,2")  # on two processes, where 0 is 1 without sharding; with shared experts last


@pytest.fixture(scope="module")
def expected(model_folder: Callable[[str], Path]) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What PyTorch's own AdamW makes of the same pairs, one document at a time."""
    model = load_reward_model(model_folder("qwen3_moe"), policy_config("qwen3_moe"), 0, seed=3).train()
    freeze_routers(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    steps = []
    for step, count in enumerate(PAIRS_OF_STEPS):
        rewards = [
            [model(torch.tensor([side.token_ids])).logits[0, 0] for side in pair] for pair in pairs(count, seed=step)
        ]
        margins = torch.stack([chosen - rejected for chosen, rejected in rewards])
        loss = -torch.log(torch.sigmoid(margins)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        adam.zero_grad()
        mean = torch.stack([value for pair in rewards for value in pair]).mean()
        right = (margins > 0).float().mean()
        steps.append(
            {"loss": loss.item(), "margin": margins.mean().item(), "mean_reward": mean.item(), "accuracy": right.item()}
        )
        steps[-1]["grad_norm"] = norm.item()
    return steps, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def launched(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reward_two_ranks.py` left after two processes had trained."""
    out = tmp_path_factory.mktemp("reward")
    script = str(ROOT / "tests/policy/reward_two_ranks.py")
    torchrun(2, script, str(model_folder("qwen3_moe")), str(out), *TOGETHER)
    return out


def same_steps(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=2e-4 if name == "grad_norm" else 1e-5), name


def same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("zero_stage", STAGES)
def test_one_process_trains_what_pytorch_does(
    model_folder: Callable[[str], Path], expected: Any, zero_stage: int
) -> None:
    model = fresh(model_folder("qwen3_moe"), zero_stage)
    assert any("gate" in name for name in model.frozen)
    steps = train(model, range(len(PAIRS_OF_STEPS)))
    found = {name: tensor.detach().clone() for name, tensor in model.weights()}
    model.close()
    same_steps(steps, expected[0])
    same_weights(found, expected[1])


@pytest.mark.parametrize("sharding", TOGETHER)
def test_two_processes_train_and_export_what_one_does_even_where_one_has_no_pair(
    launched: Path, expected: Any, sharding: str
) -> None:
    same_steps(json.loads((launched / f"zero_{sharding}.json").read_text())["steps"], expected[0])
    folder = launched / f"zero_{sharding}"
    exported = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    same_weights(exported.state_dict(), expected[1])


@pytest.mark.parametrize("sharding", TOGETHER)
def test_two_processes_go_on_from_a_saved_state_bit_for_bit(launched: Path, sharding: str) -> None:
    seen = json.loads((launched / f"zero_{sharding}.json").read_text())
    assert len(seen["again"]) == 2
    assert seen["again"] == seen["steps"][2:]
