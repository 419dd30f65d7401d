"""Several processes under ZeRO: every trainable parameter gets the gradient that one process computes; adapters and
offload train what one process does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.models.logprobs import LogProbModel
from tests.policy.zero_ranks import EXPERTS, RUNS, STEPS, documents, trained
from tests.processes import ROOT, torchrun
from tests.tiny_models import batches, policy_config, write_model

KINDS = {"qwen3_moe": {"num_experts": EXPERTS}, "nemotron_h": {"n_routed_experts": EXPERTS}}
RANKS = (2, pytest.param(4, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many_experts")
    for kind, keys in KINDS.items():
        write_model(root / kind, kind, **keys)
    return root


@pytest.fixture(scope="module")
def sharded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Ranks -> the folder that `zero_ranks.py` left."""

    @functools.cache
    def get(ranks: int) -> Path:
        out = tmp_path_factory.mktemp("zero_ranks")
        asked = [f"{kind}:{','.join(RUNS)}" if ranks > 2 or kind == "qwen3_moe" else kind for kind in KINDS]
        torchrun(ranks, str(ROOT / "tests/policy/zero_ranks.py"), str(models), str(out), *asked, timeout_s=300 * ranks)
        return out

    return get


def alone(folder: Path, kind: str, step: str) -> dict[str, torch.Tensor]:
    """The gradients without any engine."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    module = LogProbModel(model, 7)
    for batch in batches(documents(step), policy_config(kind)):
        log_probs, _ = module(batch.input_ids, batch.position_ids, batch.loss_mask)
        (-(log_probs * batch.token_weight).sum()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_arrives_and_is_that_of_one_process(
    models: Path, sharded: Any, kind: str, step: str, ranks: int
) -> None:
    found = torch.load(sharded(ranks) / f"{kind}_{step}.pt")
    expected = alone(models / kind, kind, step)
    assert set(found["gradients"]) == set(expected)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found["gradients"][name], gradient, atol=2e-6, rtol=1e-4, msg=name)
    assert all(found["moved"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_chose_other_experts_and_missed_some(sharded: Any, kind: str) -> None:
    """The comparison above is of what it says."""
    chosen = torch.load(sharded(2) / f"{kind}_different_experts.pt")["chosen"]
    assert any(chosen[0][block] != chosen[1][block] for block in chosen[0])
    alone = torch.load(sharded(2) / f"{kind}_one_row.pt")["chosen"]
    assert all(len(experts) < EXPERTS for experts in alone[0].values())


@pytest.mark.parametrize(
    ("kind", "ranks"),
    [("qwen3_moe", 2), *(pytest.param(kind, 4, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]) for kind in KINDS)],
)
@pytest.mark.parametrize("run", RUNS)
def test_adapters_and_offload_train_what_one_process_does(
    models: Path, sharded: Any, kind: str, run: str, ranks: int
) -> None:
    keys = {name: value for name, value in RUNS[run].items() if name == "lora"}
    expected = trained(models / kind, kind, zero_stage=0, **keys)
    found = torch.load(sharded(ranks) / f"{kind}_{run}.pt")
    assert set(found) == set(expected)
    start: Any = AutoModelForCausalLM.from_pretrained(models / kind, dtype=torch.float32).state_dict()
    assert any(not torch.equal(found[name], start[name]) for name in found)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=0, msg=name)
        assert (found[name] - tensor).abs().mean() < 1e-6, name
