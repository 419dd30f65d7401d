"""Run by torchrun in two processes: rank 0 starts one server, both sample and score, and both publish under ZeRO-3.

torchrun --nproc_per_node 2 tests/rollout/served_two_ranks.py MODEL OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from cascade import parallel
from cascade.ending import Ending
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.rollout.vllm_server import VllmServerEngine
from tests.rollout.embedded import flat, prompts
from tests.rollout.served import KIND, Weights, gap, sampled_gap, served_config
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage


def main() -> None:
    """Every assertion holds on every rank."""
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = policy_config(KIND, zero_stage=3)
    policy = DeepSpeedPolicy(model, config, sft_stage(), freeze_router=False)
    engine = VllmServerEngine(config, served_config(replicas=1), TOKENIZER, out)
    engine.load(model)
    truth = Weights(model)
    share = prompts(8)[parallel.rank() :: 2]
    rollouts = flat(engine.generate(share, 2, 1.0, [8] * len(share), 5))
    assert sampled_gap(rollouts, truth, 1.0) < 1e-5
    for batch in batches(sequences(6), config, ranks=2, rank=parallel.rank()):
        log_probs, _ = policy.log_probs(batch)
        policy.backward(-(log_probs * batch.token_weight).sum())
    policy.step(3e-2)
    assert engine.publish(policy, 1)["publish/replicas"] == 1.0
    assert engine.version == 1
    for name, tensor in policy.weights():
        truth.model.get_parameter(name).data.copy_(tensor)
    assert gap(engine.score(sequences(4), 1.0), sequences(4), truth, 1.0) < 1e-5
    rollouts = flat(engine.generate(share, 2, 1.0, [8] * len(share), 6))
    assert {r.policy_version for r in rollouts} == {1}
    assert sampled_gap(rollouts, truth, 1.0) < 1e-5
    parallel.barrier()  # nobody asks a server that is closed
    engine.close()
    policy.close()
    (out / f"rank{parallel.rank()}").write_text("done")


if __name__ == "__main__":
    with Ending():
        main()
