"""Run by torchrun in two processes: what the canary says on each rank when only rank 1's engine is bad.

torchrun --nproc_per_node 2 tests/rollout/canary_two_ranks.py MODEL OUT
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cascade import parallel
from cascade.ending import Ending
from cascade.errors import EngineError
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.rollout.canary import canary_sequences, check_canary
from tests.rollout.embedded import engine
from tests.tiny_models import TOKENIZER, policy_config, sft_stage


def main() -> None:
    """One line a check, in a file of the rank's own."""
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = policy_config("qwen3_moe", zero_stage=3)
    policy = DeepSpeedPolicy(model, config, sft_stage(), freeze_router=False)
    sampler = engine(model, "qwen3_moe")
    sampler.publish(policy, 1)
    sequences = canary_sequences(len(TOKENIZER), config.row_tokens)

    def check() -> str:
        try:
            check_canary(sampler, policy, sequences, config, 0)
        except EngineError as error:
            return str(error)
        return "passes"

    def on_rank_1(change: Callable[[], None]) -> str:
        if parallel.rank() == 1:
            change()
        return check()

    def bad(value: float) -> Callable[[], None]:
        return lambda: sampler.model.model.norm.weight.data.fill_(value)

    def gone(*_: Any) -> Any:
        raise EngineError("The replica is gone.", "Start another.")

    lines = [
        check(),
        on_rank_1(bad(3.0)),
        on_rank_1(bad(torch.nan)),
        on_rank_1(lambda: setattr(sampler, "score", gone)),
    ]
    (out / f"{parallel.rank()}.txt").write_text("\n".join(lines))
    policy.close()


if __name__ == "__main__":
    with Ending():
        main()
