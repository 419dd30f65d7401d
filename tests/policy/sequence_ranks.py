"""Run by torchrun: steps of training with sequence parallelism, and what one process is compared with.

torchrun --nproc_per_node N tests/policy/sequence_ranks.py MODELS OUT NAME,KIND,KEY=VALUE,... ...

The keys are of `PolicyConfig`, in JSON; a name that begins with `leak`, `reward` or `steps` does what it says.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state

from cascade import parallel
from cascade.config import LoraConfig, PolicyConfig, RewardModelStage, RlStage
from cascade.data.packing import pack
from cascade.data.pairs import rewarded
from cascade.ending import Ending
from cascade.models.loading import build_model, load_model
from cascade.models.logprobs import LogProbModel
from cascade.policy.deepspeed import DeepSpeedEngine, DeepSpeedPolicy
from cascade.policy.export import export_policy, save_folder
from cascade.policy.reward import DeepSpeedRewardModel
from cascade.step import PairWorkers, Workers, pair_step, update
from cascade.types import PackedBatch, TrainingSequence
from tests.tiny_models import KEYS, TOKENIZER, policy_config, sequences, sft_stage

TEMPERATURE = 0.7
BETA = 0.9  # of Adam: a first step leaves (1 - BETA) times the gradient in its first moment
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "windows": ("mistral", {"sliding_window": 6, "num_key_value_heads": 1}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 16}),  # more experts than a slice has tokens for
    "nemotron_h": ("nemotron_h", {}),
    "four_groups": ("nemotron_h", {"n_groups": 4}),
}


def main() -> None:
    """Every case that is asked for, in one launch."""
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:]:
        name, kind, *keys = asked.split(",")
        found = case(name, models / kind, **{key: json.loads(value) for key, _, value in map(cut, keys)})
        if parallel.rank() == 0:
            torch.save(found, out / f"{name}.pt")


def cut(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def case(name: str, model: Path, **keys: Any) -> dict[str, Any]:
    """What processes with sequence parallelism, and one without, must find alike."""
    kind = {"leak": leak, "reward": reward_step, "steps": whole_steps}.get(name.partition("_")[0], gradients)
    return kind(model, config_of(**keys))


def config_of(**keys: Any) -> PolicyConfig:
    defaults = {"packing": True, "rows_per_micro_batch": 2, "max_grad_norm": 1e9}
    adapters = {"lora": LoraConfig(**keys.pop("lora"))} if "lora" in keys else {}
    return policy_config("llama", **{**defaults, **keys, **adapters})


def write_kind(models: Path, name: str) -> Path:
    kind, keys = KINDS[name]
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    model = build_model(kind, {**KEYS.get(kind, KEYS["llama"]), **keys}, 0, len(TOKENIZER), special)
    save_folder(model, models / name, TOKENIZER, {"identity": name, "stage": "base", "step": 0}, None)
    return models / name


def gradients(model: Path, config: PolicyConfig) -> dict[str, Any]:
    """Of one step over several micro-batches, in some of which a share of the data, or all of it, has no document."""
    policy = fresh(model, config)
    many, one = sequences(9, seed=4), sequences(1)
    sums = torch.zeros(2)  # loss, entropy
    for batch in [*packed(many, config), *packed(one, config), *packed(one, config, shares=(9, 8))]:
        log_probs, entropy = policy.log_probs(batch, TEMPERATURE)
        part = objective(log_probs, batch)
        policy.backward(part)
        sums += torch.stack([part.detach(), entropy.sum()])
    counted = parallel.rank() % config.sequence_parallel == 0
    (fixed,) = packed(sequences(4, seed=6), dataclasses.replace(config, rows_per_micro_batch=4), shares=(1, 0))
    found = {
        "sums": parallel.sum_over_ranks(sums if counted else torch.zeros(2)),
        "candidates": candidates(policy, fixed),
        "beside": beside(model, policy, config, fixed),
        "gradients": first_gradients(policy),
    }
    policy.close()
    return found


def objective(log_probs: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """A loss with a term that ties all tokens of a document together, as ratios of sequences do."""
    sums = torch.zeros(10).scatter_add(0, (batch.sequence_index + 1).flatten(), (log_probs * batch.loss_mask).flatten())
    return -(log_probs * batch.token_weight).sum() + 0.1 * (0.05 * sums[1:]).tanh().sum()


def candidates(policy: DeepSpeedPolicy, batch: PackedBatch) -> torch.Tensor:
    """Log-probs of three tokens at every position, [B, T, 3]."""
    ids = torch.stack([batch.input_ids, (batch.input_ids + 1) % 30, torch.full_like(batch.input_ids, 7)], -1)
    with torch.no_grad():
        return policy.log_probs(batch, TEMPERATURE, ids)[0]


def beside(model: Path, policy: DeepSpeedPolicy, config: PolicyConfig, batch: PackedBatch) -> float:
    """How far a plain copy on one rank alone is from the policy: it must not wait for the others, nor differ."""
    with torch.no_grad():
        own, _ = policy.log_probs(batch, TEMPERATURE)
        if parallel.rank():
            return 0.0
        copy = LogProbModel(load_model(model, config).train(), 16)
        theirs, _ = copy(batch.input_ids, batch.position_ids, batch.loss_mask, TEMPERATURE)
    return (own - theirs).abs().max().item()


def leak(model: Path, config: PolicyConfig) -> dict[str, Any]:
    """Three documents in a row, the loss on the second: what the others say must not reach it."""
    found = {}
    for marker in (3, 29):
        policy = fresh(model, config)
        documents = [marked(marker, 21), document(14, in_loss=True), marked(marker, 9)]
        (batch,) = packed(documents, config)
        assert len(batch.input_ids) == 1
        log_probs, _ = policy.log_probs(batch, TEMPERATURE)
        policy.backward(-log_probs.sum())
        found[marker] = {"log_probs": log_probs.detach(), "gradients": first_gradients(policy)}
        policy.close()
    return found


def marked(marker: int, tokens: int) -> TrainingSequence:
    """A document of one token over and over."""
    return TrainingSequence((marker,) * tokens, (0,) * tokens)


def document(tokens: int, *, in_loss: bool) -> TrainingSequence:
    rng = random.Random(0)
    return TrainingSequence(tuple(rng.randrange(4, 28) for _ in range(tokens)), (0,) + (int(in_loss),) * (tokens - 1))


def whole_steps(model: Path, config: PolicyConfig) -> dict[str, Any]:
    """Two optimiser steps of GSPO with replayed experts, as stages make them: metrics, and the weights they export."""
    policy = fresh(model, config)
    keys = {"temperature": TEMPERATURE, "max_staleness": 1, "ratio_level": "sequence"}
    stage = RlStage(mix={"math": 1.0}, max_steps=2, learning_rate=1e-3, **keys)
    rng = random.Random(1)
    learnt = [
        dataclasses.replace(
            one,
            advantage=rng.uniform(-1, 1),
            sampler_log_probs=tuple(flag * rng.uniform(-4.5, -3) for flag in one.loss_mask),
            routed_experts=chosen_at_random(len(one.token_ids) - 1, rng),
        )
        for one in sequences(8, seed=5)
    ]
    nothing: Any = None
    work = Workers(policy, nothing, None, nothing, config, 0)
    measured = [update(work, stage, learnt, "token", 1e-3) for _ in range(2)]
    folder = model.parent / f"exported_{parallel.world_size()}"
    export_policy(policy, folder, TOKENIZER, {"identity": "x", "stage": "test", "step": 2})
    found = {"metrics": measured, "config": (folder / "config.json").read_text(), "weights": copied(policy)}
    policy.close()
    return found


def chosen_at_random(tokens: int, rng: random.Random) -> torch.Tensor:
    """Two of 16 experts in each of two layers, [T, 2, 2]: what sampling might have recorded."""
    return torch.tensor([[rng.sample(range(16), 2) for _ in range(2)] for _ in range(tokens)])


def reward_step(model: Path, config: PolicyConfig) -> dict[str, Any]:
    """One step of a reward model on three pairs."""
    stage = RewardModelStage(mix={"pairs": 1.0}, max_steps=1, learning_rate=1e-3, batch_size=3)
    config = dataclasses.replace(config, packing=False)
    trained = DeepSpeedRewardModel(model, config, stage, freeze_router=False, pad_id=0, seed=3)
    rng = random.Random(0)

    def side() -> TrainingSequence:
        return rewarded([rng.randrange(2, 30) for _ in range(rng.randint(3, 19))], 0)

    pairs = [(side(), side()) for _ in range(3)]
    source: Any = SimpleNamespace(pairs=lambda _: pairs)
    measured = pair_step(PairWorkers(trained, source, config, 0), stage, 1e-3).metrics
    found = {"metrics": [dict(measured)], "weights": copied(trained)}
    trained.close()
    return found


def fresh(model: Path, config: PolicyConfig) -> DeepSpeedPolicy:
    return DeepSpeedPolicy(model, config, sft_stage(adam_beta1=BETA), freeze_router=False)


def packed(
    documents: Sequence[TrainingSequence], config: PolicyConfig, shares: tuple[int, int] | None = None
) -> list[PackedBatch]:
    """This process's micro-batches; `shares`: of so many shares of the rows, that one."""
    sharing = config.sequence_parallel
    ranks, rank = shares or (parallel.data_size(sharing), parallel.data_rank(sharing))
    total = sum(document.loss_tokens for document in documents)
    weights = [1.0 / total] * len(documents)
    rows = {"row_tokens": config.row_tokens, "rows_per_batch": config.rows_per_micro_batch}
    return pack(documents, weights, **rows, ranks=ranks, rank=rank, pad_id=0, one_per_row=False)


def first_gradients(policy: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """What a first optimiser step saw of every parameter, whole, under any ZeRO stage. Collective."""
    policy.step(1e-3)
    optimizer = policy.engine.optimizer
    if hasattr(optimizer, "_hp_optimizer_states_linked"):  # ZeRO 1 and 2 have linked the first group's only
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
    moments = {
        name: safe_get_full_optimizer_state(parameter, "exp_avg") for name, parameter in policy.model.named_parameters()
    }
    return {name: moment / (1 - BETA) for name, moment in moments.items() if moment is not None}


def copied(policy: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy.weights()}


if __name__ == "__main__":
    with Ending():
        main()
