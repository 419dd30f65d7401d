"""Run by torchrun in two processes: trains a reward model, saves, trains on; loads and trains on again.

torchrun --nproc_per_node 2 tests/policy/reward_two_ranks.py MODEL OUT ZERO_STAGE[,EXPERT_PARALLEL]...
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cascade import parallel
from cascade.config import RewardModelStage
from cascade.data.pairs import rewarded
from cascade.ending import Ending
from cascade.policy.export import export_policy
from cascade.policy.reward import DeepSpeedRewardModel
from cascade.step import PairWorkers, pair_step
from cascade.types import TrainingSequence
from tests.tiny_models import TOKENIZER, policy_config

PAIRS_OF_STEPS = (5, 1, 4, 3)
"""Of the steps that one and two processes are compared over; with one pair, the second process has none."""

Pairs = list[tuple[TrainingSequence, TrainingSequence]]


def pairs(count: int, seed: int) -> Pairs:
    """Documents of 4 to 20 tokens; the preferred one ends with an even token."""
    rng = random.Random(seed)

    def side(last: int) -> TrainingSequence:
        return rewarded([rng.randrange(2, 30) for _ in range(rng.randint(3, 19))] + [last], 0)

    return [(side(2 * rng.randrange(2, 12)), side(2 * rng.randrange(2, 12) + 1)) for _ in range(count)]


def fresh(model: Path, zero_stage: int, expert_parallel: int = 1) -> DeepSpeedRewardModel:
    config = policy_config("qwen3_moe", zero_stage=zero_stage, expert_parallel=expert_parallel, packing=False)
    return DeepSpeedRewardModel(model, config, stage(1), freeze_router=True, pad_id=0, seed=3)


def stage(batch_size: int) -> RewardModelStage:
    return RewardModelStage(mix={"pairs": 1.0}, max_steps=4, learning_rate=1e-3, batch_size=batch_size)


def train(model: DeepSpeedRewardModel, steps: range) -> list[dict[str, float]]:
    """The metrics of every step."""
    found = []
    for step in steps:
        source: Any = SimpleNamespace(pairs=lambda n, step=step: pairs(n, seed=step))
        work = PairWorkers(model, source, policy_config("qwen3_moe", rows_per_micro_batch=2), 0)
        found.append(dict(pair_step(work, stage(PAIRS_OF_STEPS[step]), 1e-3).metrics))
    return found


def exercise(folder: Path, out: Path, *sharding: int) -> None:
    """Trains, saves, trains on and exports to `out`; then loads what was saved and trains on again."""
    state, last = out.with_suffix(".state"), len(PAIRS_OF_STEPS)
    model = fresh(folder, *sharding)
    steps = train(model, range(2))
    model.save(state, {"step": 2})
    steps += train(model, range(2, last))
    export_policy(model, out, TOKENIZER, {"identity": out.name, "stage": "test", "step": last})
    model.close()
    model = fresh(folder, *sharding)
    assert model.load(state) == {"step": 2}
    again = train(model, range(2, last))
    model.close()
    if parallel.rank() == 0:
        out.with_suffix(".json").write_text(json.dumps({"steps": steps, "again": again}))


if __name__ == "__main__":
    with Ending():
        for asked in sys.argv[3:]:
            exercise(Path(sys.argv[1]), Path(sys.argv[2]) / f"zero_{asked}", *map(int, asked.split(",")))
