"""Run by torchrun: gradients of one step under ZeRO-3, ranks routing to different experts, one rank without rows; and
short runs with adapters and with offload.

torchrun --nproc_per_node N tests/policy/zero_ranks.py MODELS OUT KIND[:RUN,...]...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_grad

from cascade import parallel
from cascade.config import LoraConfig
from cascade.ending import Ending
from cascade.models.moe_blocks import moe_blocks
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.moved import MovedCheck
from cascade.types import TrainingSequence
from tests.tiny_models import batches, policy_config, sequences, sft_stage

EXPERTS = 16
STEPS = {"different_experts": 5, "one_row": 1}
"""Documents of the steps; of one document only one process has a row."""


RUNS: dict[str, dict[str, Any]] = {
    "adapters": {"zero_stage": 3, "lora": LoraConfig(rank=2, alpha=8.0, experts=True)},
    "offload": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "offload_all": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
}
"""What is trained for some steps, and published."""


def documents(step: str) -> list[TrainingSequence]:
    """What both sides of the comparison train on."""
    return sequences(STEPS[step], seed=3)


class Chosen:
    """Which experts the tokens of this process chose, by block."""

    def __init__(self, model: Any) -> None:
        self.experts: dict[str, set[int]] = {}
        for block in moe_blocks(model):
            block.router.register_forward_hook(self._noting(block.name))

    def _noting(self, name: str) -> Any:
        def note(_module: Any, _inputs: Any, output: Any) -> None:
            self.experts.setdefault(name, set()).update(output[2].flatten().tolist())

        return note


def gradients(model: Path, kind: str, step: str) -> dict[str, Any]:
    """Of every trainable parameter, whole; and what every rank chose."""
    config = policy_config(kind, zero_stage=3, row_tokens=32, rows_per_micro_batch=1)
    policy = DeepSpeedPolicy(model, config, sft_stage(), freeze_router=False)
    chosen = Chosen(policy.model)
    for batch in batches(documents(step), config, ranks=parallel.world_size(), rank=parallel.rank()):
        log_probs, _ = policy.log_probs(batch)
        policy.backward(-(log_probs * batch.token_weight).sum())
    found = {name: safe_get_full_grad(parameter) for name, parameter in policy.model.named_parameters()}
    found = {name: None if gradient is None else gradient.clone() for name, gradient in found.items()}
    before = {name: tensor.clone() for name, tensor in policy.weights()}
    policy.step(1e-3)
    moved = {name: not torch.equal(tensor, before[name]) for name, tensor in policy.weights() if name in found}
    policy.close()
    return {"gradients": found, "chosen": parallel.gather(chosen.experts), "moved": moved}


def trained(model: Path, kind: str, **keys: Any) -> dict[str, torch.Tensor]:
    """What a policy publishes after three steps, in the second of which one process at most has rows."""
    config = policy_config(kind, **keys)
    policy = DeepSpeedPolicy(model, config, sft_stage(weight_decay=0.1), freeze_router=True)
    moved = MovedCheck(policy)
    for step, rows in enumerate((5, 1, 4)):
        for batch in batches(sequences(rows, seed=step), config, ranks=parallel.world_size(), rank=parallel.rank()):
            log_probs, _ = policy.log_probs(batch)
            policy.backward(-(log_probs * batch.token_weight).sum())
        assert moved.after(policy.step(1e-2)) == {}
    weights = {name: tensor.clone() for name, tensor in policy.weights()}
    policy.close()
    return weights


def main() -> None:
    """Every kind and step that is asked for, in one launch."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:]:
        kind, _, runs = asked.partition(":")
        for step in STEPS:
            found = gradients(models / kind, kind, step)
            if parallel.rank() == 0:
                torch.save(found, out / f"{kind}_{step}.pt")
        for run in filter(None, runs.split(",")):
            weights = trained(models / kind, kind, **RUNS[run])
            if parallel.rank() == 0:
                torch.save(weights, out / f"{kind}_{run}.pt")


if __name__ == "__main__":
    with Ending():
        main()
