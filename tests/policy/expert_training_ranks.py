"""Run by torchrun in two processes: trains mixtures of experts with everything that balances them.

torchrun --nproc_per_node 2 tests/policy/expert_training_ranks.py MODELS OUT KIND:WAY...
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cascade import parallel
from cascade.config import PolicyConfig, SftStage
from cascade.ending import Ending
from cascade.objectives import micro_batch_loss
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.types import TrainingSequence
from tests.tiny_models import batches, policy_config, sequences, sft_stage

STEPS = (1, 7, 5)
"""Documents of the steps; with one, a process of two has no row."""
COEFFICIENT = 0.05
LAYERS, EXPERTS = 2, 4  # of both kinds
WAYS: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "experts": {"zero_stage": 1, "expert_parallel": 2},
    "slices": {"zero_stage": 1, "sequence_parallel": 2},
    "whole": {"zero_stage": 0},
}


def stage_of(kind: str, way: str) -> SftStage:
    """What balances this kind in this way: a loss where rows are whole, a bias where routers have one."""
    return sft_stage(
        router_aux_loss_coef=0.0 if way in ("slices", "whole") else COEFFICIENT,
        expert_bias_update_rate=0.01 if kind == "nemotron_h" else 0.0,
    )


def documents_of(step: int) -> list[TrainingSequence]:
    """The documents of a step; in the second one with recorded experts, of most tokens of every other document."""
    documents = sequences(STEPS[step], seed=step)
    if step != 1:
        return documents
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(len(d.token_ids) - 3, LAYERS, EXPERTS, generator=generator).topk(2).indices for d in documents]
    return [
        replace(document, routed_experts=record.to(torch.uint8) if number % 2 else None)
        for number, (document, record) in enumerate(zip(documents, drawn, strict=True))
    ]


def train(folder: Path, kind: str, way: str, rows: int = 3) -> dict[str, Any]:
    """Losses, metrics, biases and weights; the same on every rank but for rounding."""
    config: PolicyConfig = policy_config(kind, rows_per_micro_batch=rows, **WAYS[way])
    sharing = config.sequence_parallel
    stage = stage_of(kind, way)
    policy = DeepSpeedPolicy(folder, config, stage, freeze_router=False)
    totals, metrics = [], []
    for step in range(len(STEPS)):
        sums: dict[str, torch.Tensor] = {}
        shares, share = parallel.world_size() // sharing, parallel.rank() // sharing
        for batch in batches(documents_of(step), config, ranks=shares, rank=share):
            loss, here = micro_batch_loss(policy, batch, stage)
            policy.backward(loss)
            sums = {name: sums.get(name, torch.zeros(())) + value.detach() for name, value in here.items()}
        measured = policy.step(1e-3)
        reduced = {name: parallel.sum_over_ranks(value.double()).item() / sharing for name, value in sums.items()}
        totals.append({name: reduced[name] for name in ("loss", "aux_loss") if name in reduced})
        metrics.append(
            {name: value for name, value in measured.items() if name.startswith(("experts", "replay", "grad"))}
        )
    seen = {
        "losses": totals,
        "metrics": metrics,
        "biases": [bias.value.tolist() for bias in policy.experts.biases],
        "weights": {name: tensor.detach().clone() for name, tensor in policy.weights()},
    }
    policy.close()
    return seen


def main() -> None:
    """Every kind and way that is asked for, in one launch."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:]:
        kind, way = asked.split(":")
        seen = train(models / kind, kind, way)
        torch.save(seen, out / f"{kind}_{way}_{parallel.rank()}.pt")


if __name__ == "__main__":
    with Ending():
        main()
