"""Run by torchrun: trains with all that hangs on routers, experts shared over the processes there are.

torchrun --nproc_per_node 2 tests/policy/expert_routing_ranks.py MODELS OUT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cascade import parallel
from cascade.ending import Ending
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.types import TrainingSequence
from tests.policy.expert_models import EXPERTS, KINDS
from tests.tiny_models import batches, policy_config, sequences, sft_stage

LAYERS, CHOSEN, STEPS = 2, 2, 2
STAGES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"router_aux_loss_coef": 0.1},
    "nemotron_h": {"expert_bias_update_rate": 0.01},
}


def main() -> None:
    """Leaves `OUT/PROCESSES.pt`."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    parallel.start()
    found = {kind: train(models / kind, kind) for kind in KINDS}
    if parallel.rank() == 0:
        torch.save(found, out / f"{parallel.world_size()}.pt")


def train(model: Path, kind: str) -> dict[str, Any]:
    """The last step's metrics, and what routers hold then."""
    config = policy_config(kind, zero_stage=1, expert_parallel=parallel.world_size())
    policy = DeepSpeedPolicy(model, config, sft_stage(**STAGES[kind]), freeze_router=False)
    metrics: dict[str, float] = {}
    for step in range(STEPS):
        documents = [recorded(document, step) for document in sequences(7, seed=step)]
        for batch in batches(documents, config, ranks=parallel.world_size(), rank=parallel.rank()):
            log_probs, _ = policy.log_probs(batch)
            balance = STAGES[kind].get("router_aux_loss_coef", 0.0)
            loss = -(log_probs * batch.token_weight).sum()
            policy.backward(loss + balance * policy.balance_losses().sum() if balance else loss)
        metrics = dict(policy.step(1e-3))
    routers = {name: tensor.clone() for name, tensor in policy.weights() if ".gate." in name}
    policy.close()
    return {"metrics": metrics, "routers": routers}


def recorded(document: TrainingSequence, seed: int) -> TrainingSequence:
    """With experts that a sampler may have chosen."""
    generator = torch.Generator().manual_seed(seed)
    tokens = len(document.token_ids)
    chosen = [torch.randperm(EXPERTS, generator=generator)[:CHOSEN] for _ in range(tokens * LAYERS)]
    return replace(document, routed_experts=torch.stack(chosen).view(tokens, LAYERS, CHOSEN).to(torch.int16))


if __name__ == "__main__":
    with Ending():
        main()
