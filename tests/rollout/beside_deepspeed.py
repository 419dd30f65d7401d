"""`python -m tests.rollout.beside_deepspeed policy|engine FOLDER`: a policy trains while vLLM samples beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import cascade.parallel as parallel
from cascade.config import RolloutConfig
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.rollout.vllm_inprocess import VllmInProcessEngine
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage, write_model
from tests.vllm_engine import HEAD, LENGTH, prompts

KIND = "qwen3_moe"


def gap(policy: DeepSpeedPolicy, engine: VllmInProcessEngine) -> float:
    """The largest difference of their log-probs of a few documents, nats."""
    documents = sequences(5)
    config = policy_config(KIND, row_tokens=32, rows_per_micro_batch=1, packing=False)
    found = engine.score(documents, 1.0)
    worst = 0.0
    for batch in batches(documents, config):
        with torch.no_grad():
            log_probs, _ = policy.log_probs(batch)
        number = int(batch.sequence_index[0, 0])
        length = len(documents[number].token_ids)
        worst = max(worst, float((log_probs[0, :length] - torch.tensor(found[number])).abs().max()))
    return worst


def train(policy: DeepSpeedPolicy) -> None:
    """One step that moves the weights."""
    for batch in batches(sequences(5, seed=1), policy_config(KIND)):
        log_probs, _ = policy.log_probs(batch)
        policy.backward(-(log_probs * batch.token_weight).sum())
    policy.step(0.01)


def main(first: str, folder: Path) -> None:
    model = write_model(folder / "model", KIND, **HEAD)
    settings = RolloutConfig(engine="vllm_inprocess", max_model_len=LENGTH, kv_cache_gib=0.05)
    engine = VllmInProcessEngine(policy_config(KIND), settings, TOKENIZER)
    if first == "engine":
        engine.load(model)
    parallel.start()
    policy = DeepSpeedPolicy(model, policy_config(KIND), sft_stage(), freeze_router=True)
    drawn = torch.random.get_rng_state()
    if first == "policy":
        engine.load(model)
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"
    assert gap(policy, engine) < 1e-5
    for version in (1, 2):
        train(policy)
        assert gap(policy, engine) > 1e-2
        engine.publish(policy, version)
        assert gap(policy, engine) < 1e-5
        assert engine.generate(prompts(2), 2, 1.0, [4, 4], 0)[0][0].policy_version == version
    engine.close()
    assert torch.distributed.is_initialized()
    train(policy)  # the process group is still there
    policy.close()
    print("exact, twice")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
