"""Run by torchrun in two processes: trains, saves, loads and exports, rank 1 without rows in some steps.

torchrun --nproc_per_node 2 tests/policy/two_ranks.py MODELS OUT KIND:STAGE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from cascade import parallel
from cascade.ending import Ending
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy
from tests.tiny_models import ROWS_OF_STEPS, TOKENIZER, batches, policy_config, sequences, sft_stage


def train(policy: DeepSpeedPolicy, kind: str, steps: range) -> list[float]:
    """The loss of every step, summed over ranks."""
    losses = []
    for step in steps:
        documents = sequences(ROWS_OF_STEPS[step], seed=step)
        loss = torch.zeros(())
        for batch in batches(documents, policy_config(kind), ranks=parallel.world_size(), rank=parallel.rank()):
            log_probs, _ = policy.log_probs(batch)
            part = -(log_probs * batch.token_weight).sum()
            policy.backward(part)
            loss = loss + part.detach()
        policy.step(1e-3)
        losses.append(parallel.sum_over_ranks(loss).item())
    return losses


def main() -> None:
    """Every kind and ZeRO stage that is asked for, in one launch."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:]:
        kind, stage = asked.split(":")
        exercise(models / kind, kind, int(stage), out / f"{kind}_{stage}")


def exercise(model: Path, kind: str, stage: int, out: Path) -> None:
    """Trains, saves, trains on and exports to `out`; then loads what was saved and trains on again."""

    def fresh() -> DeepSpeedPolicy:
        return DeepSpeedPolicy(model, policy_config(kind, zero_stage=stage), sft_stage(), freeze_router=True)

    state = out.with_suffix(".state")
    policy = fresh()
    losses = train(policy, kind, range(2))
    policy.save(state, {"step": 2})
    losses += train(policy, kind, range(2, len(ROWS_OF_STEPS)))
    export_policy(policy, out, TOKENIZER, {"identity": out.name, "stage": "test", "step": len(losses)})
    policy.close()
    policy = fresh()
    assert policy.load(state) == {"step": 2}
    again = train(policy, kind, range(2, len(ROWS_OF_STEPS)))
    policy.close()
    if parallel.rank() == 0:
        out.with_suffix(".json").write_text(json.dumps({"losses": losses, "again": again}))


if __name__ == "__main__":
    with Ending():
        main()
