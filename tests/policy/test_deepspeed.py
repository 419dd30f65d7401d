"""The DeepSpeed policy trains rightly under every ZeRO stage. Real engines, one process."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade import parallel
from cascade.errors import ConfigError, EngineError
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.engine_config import engine_config
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage

KINDS = ("qwen3_moe", "nemotron_h")
STAGES = (0, 1, 2, 3)
ROUTER = {"qwen3_moe": "mlp.gate.weight", "nemotron_h": "mixer.gate.weight"}

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """Three steps of training, and what is left of them."""

    losses: list[float]
    norms: list[float]
    before: Weights
    after: Weights
    frozen: list[str]

    @property
    def still(self) -> set[str]:
        return {name for name in self.before if torch.equal(self.before[name], self.after[name])}


@pytest.fixture(scope="module")
def run(model_folder: Any, steps: Any, train: Any, snapshot: Any) -> Any:
    """(kind, ZeRO stage, freeze_router, more policy keys) -> its run, trained once."""
    done: dict[Any, Run] = {}

    def get(kind: str, stage: int, freeze_router: bool = True, **keys: Any) -> Run:
        name = (kind, stage, freeze_router, *sorted(keys.items()))
        if name not in done:
            config = policy_config(kind, zero_stage=stage, **keys)
            policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=freeze_router)
            before = snapshot(policy)
            trace = train(policy, steps(kind))
            done[name] = Run(trace.losses, trace.norms, before, snapshot(policy), policy.frozen)
            policy.close()
        return done[name]

    return get


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_parameter_moves_and_a_frozen_router_does_not(run: Any, kind: str, stage: int) -> None:
    trained = run(kind, stage)
    routers = {name for name in trained.before if name.endswith(ROUTER[kind])}
    assert routers == set(trained.frozen)
    buffers = {name for name in trained.before if name.endswith("e_score_correction_bias")}
    assert trained.still == routers | buffers
    assert len(routers) == 2


@pytest.mark.parametrize("stage", (1, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_router_that_is_not_frozen_moves(run: Any, kind: str, stage: int) -> None:
    trained = run(kind, stage, freeze_router=False)
    assert trained.frozen == []
    assert trained.still == {name for name in trained.before if name.endswith("e_score_correction_bias")}


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_norms_and_weights_are_the_same_under_every_stage(run: Any, kind: str, stage: int) -> None:
    reference, trained = run(kind, 0), run(kind, stage)
    assert trained.losses == pytest.approx(reference.losses, abs=1e-5)
    assert trained.norms == pytest.approx(reference.norms, rel=1e-4)
    assert all(math.isfinite(norm) and norm > 0 for norm in trained.norms)
    for name, tensor in reference.after.items():
        torch.testing.assert_close(trained.after[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_gives_the_same_losses(run: Any, kind: str) -> None:
    for stage in (1, 3):
        trained = run(kind, stage, activation_checkpointing=True)
        assert trained.losses == pytest.approx(run(kind, stage).losses, abs=1e-5)


@pytest.mark.parametrize("stage", (1, 2, 3))
def test_bf16_trains(model_folder: Any, steps: Any, train: Any, stage: int) -> None:
    config = policy_config("qwen3_moe", zero_stage=stage, dtype="bf16")
    policy = DeepSpeedPolicy(model_folder("qwen3_moe"), config, sft_stage(), freeze_router=True)
    trace = train(policy, steps("qwen3_moe", 1) * 8)
    assert trace.losses[-1] < trace.losses[0] - 0.1
    assert all(math.isfinite(norm) and norm > 0 for norm in trace.norms)
    assert {tensor.dtype for _, tensor in policy.weights()} == {torch.bfloat16}
    policy.close()


@pytest.mark.parametrize("stage", (0, 3))
@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h", "llama"))
def test_log_probs_are_those_of_transformers(model_folder: Any, kind: str, temperature: float, stage: int) -> None:
    config = policy_config(kind, zero_stage=stage, log_prob_chunk=5)
    policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval()
    documents, seen = sequences(6), 0
    with torch.no_grad():
        for batch in batches(documents, config):
            candidates = torch.randint(0, len(TOKENIZER), (*batch.input_ids.shape, 3))
            log_probs, entropy = policy.log_probs(batch, temperature)
            of_candidates, _ = policy.log_probs(batch, temperature, candidates)
            assert not log_probs[batch.loss_mask == 0].any()
            for index in sorted(set(batch.sequence_index.flatten().tolist()) - {-1}):
                tokens = torch.tensor(documents[index].token_ids)
                logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
                expected = (logits / temperature).log_softmax(-1)  # of tokens 1 to T-1
                mask = torch.tensor(documents[index].loss_mask[1:]).bool()
                here = (batch.sequence_index == index) & batch.loss_mask.bool()
                chosen = expected[mask].gather(1, tokens[1:][mask, None]).squeeze(1)
                torch.testing.assert_close(log_probs[here], chosen, atol=1e-5, rtol=0)
                torch.testing.assert_close(
                    of_candidates[here], expected[mask].gather(1, candidates[here]), atol=1e-5, rtol=0
                )
                torch.testing.assert_close(entropy[here], -(expected.exp() * expected).sum(1)[mask], atol=1e-5, rtol=0)
                seen += 1
    assert seen == len(documents)
    policy.close()


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_bounds_the_update_and_the_norm_is_reported_as_it_was_before(
    model_folder: Any, steps: Any, train: Any, snapshot: Any, stage: int
) -> None:
    """With a large epsilon, Adam's first update is the learning rate times the clipped gradient over epsilon."""
    moved, norms = {}, {}
    for limit in (0.01, 1e6):
        config = policy_config("qwen3_moe", zero_stage=stage, max_grad_norm=limit)
        adam = sft_stage(adam_epsilon=1e4, learning_rate=1e4)
        policy = DeepSpeedPolicy(model_folder("qwen3_moe"), config, adam, freeze_router=False)
        before = snapshot(policy)
        norms[limit] = train(policy, steps("qwen3_moe", 1), 1e4).norms[0]
        moved[limit] = math.sqrt(sum(float((t - before[name]).square().sum()) for name, t in snapshot(policy).items()))
        policy.close()
    assert norms[0.01] == pytest.approx(norms[1e6], rel=1e-5)
    assert norms[1e6] > 0.1
    assert moved[1e6] == pytest.approx(norms[1e6], rel=1e-3)
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_rate_of_zero_moves_no_weight(model_folder: Any, steps: Any, train: Any, snapshot: Any, stage: int) -> None:
    config = policy_config("qwen3_moe", zero_stage=stage)
    policy = DeepSpeedPolicy(model_folder("qwen3_moe"), config, sft_stage(weight_decay=0.5), freeze_router=False)
    before = snapshot(policy)
    train(policy, steps("qwen3_moe"), 0.0)
    after = snapshot(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    policy.close()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_run_goes_on_bit_for_bit(
    model_folder: Any, steps: Any, train: Any, snapshot: Any, tmp_path: Any, kind: str, stage: int
) -> None:
    def fresh() -> DeepSpeedPolicy:
        config = policy_config(kind, zero_stage=stage)
        return DeepSpeedPolicy(model_folder(kind), config, sft_stage(weight_decay=0.1), freeze_router=True)

    policy = fresh()
    train(policy, steps(kind, 2))
    policy.save(tmp_path / "saved", {"cursor": 7})
    trace, weights = train(policy, steps(kind, 2, seed=9)), snapshot(policy)
    policy.close()

    policy = fresh()
    assert policy.load(tmp_path / "saved") == {"cursor": 7}
    assert train(policy, steps(kind, 2, seed=9)) == trace
    again = snapshot(policy)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    policy.close()


def test_loading_from_a_folder_without_a_state_is_an_error(model_folder: Any, tmp_path: Any) -> None:
    config = policy_config("llama")
    policy = DeepSpeedPolicy(model_folder("llama"), config, sft_stage(), freeze_router=False)
    with pytest.raises(EngineError, match="holds no engine state"):
        policy.load(tmp_path)
    policy.close()


@pytest.mark.parametrize("stage", (0, 3))
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h", "llama"))
def test_weights_yields_every_parameter_and_persistent_buffer_whole(
    model_folder: Any, snapshot: Any, kind: str, stage: int
) -> None:
    config = policy_config(kind, zero_stage=stage)
    policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
    published = snapshot(policy)
    policy.close()
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32)
    expected = model.state_dict()
    tied = {"lm_head.weight"} if kind == "llama" else set()  # published once, as the embedding
    assert set(published) == set(expected) - tied
    assert all(torch.equal(published[name], expected[name]) for name in published)
    if kind == "nemotron_h":
        assert any(name.endswith("e_score_correction_bias") for name in published)


@pytest.mark.parametrize("stage", STAGES)
def test_packed_mamba_models_train_as_with_one_document_a_row(model_folder: Any, train: Any, stage: int) -> None:
    traces = []
    for packing in (True, False):
        config = policy_config("nemotron_h", packing=packing, zero_stage=stage, activation_checkpointing=packing)
        policy = DeepSpeedPolicy(model_folder("nemotron_h"), config, sft_stage(), freeze_router=True)
        traces.append(train(policy, [batches(sequences(7, seed=step), config) for step in range(3)]))
        policy.close()
    assert traces[0].losses == pytest.approx(traces[1].losses, rel=1e-5)
    assert traces[0].norms == pytest.approx(traces[1].norms, rel=1e-4)


def test_one_process_stays_no_launchers_process() -> None:
    """What starts from here, a verifier or another run, must not take itself for a rank."""
    parallel.start()
    assert (parallel.rank(), parallel.world_size()) == (0, 1)
    assert "RANK" not in os.environ
    assert "WORLD_SIZE" not in os.environ


def user_json(folder: Any, content: dict[str, Any]) -> str:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_a_users_deepspeed_json_is_merged_and_trains(
    model_folder: Any, steps: Any, train: Any, run: Any, tmp_path: Any
) -> None:
    file = user_json(
        tmp_path,
        {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "optimizer": "auto",
            "zero_optimization": {"stage": "auto", "reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": 2000},
            "bf16": {"enabled": "auto"},
        },
    )
    config = policy_config("qwen3_moe", zero_stage=2, deepspeed=file)
    merged = engine_config(config)
    assert merged["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 1000,
        "stage3_prefetch_bucket_size": 2000,
    }
    assert merged["gradient_clipping"] == config.max_grad_norm
    assert merged["train_micro_batch_size_per_gpu"] == config.rows_per_micro_batch
    assert "optimizer" not in merged
    assert "train_batch_size" not in merged
    policy = DeepSpeedPolicy(model_folder("qwen3_moe"), config, sft_stage(), freeze_router=True)
    assert policy.engine.zero_reduce_bucket_size() == 1000
    assert train(policy, steps("qwen3_moe")).losses == pytest.approx(run("qwen3_moe", 2).losses, abs=1e-5)
    policy.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "sets `zero_optimization.stage` to 3, but the recipe makes it 2"),
        ({"bf16": {"enabled": True}}, "sets `bf16.enabled` to True, but the recipe makes it False"),
        ({"gradient_clipping": 0.5}, "sets `gradient_clipping` to 0.5"),
        ({"optimizer": {"type": "AdamW"}}, "sets `optimizer`, which the stages of the recipe decide"),
        ({"scheduler": {"type": "WarmupLR"}}, "sets `scheduler`, which the stages of the recipe decide"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "which the recipe does not decide"),
        ({"zero_optimization": 2}, "zero_optimization"),
        ({"fp16": {"enabled": True}}, "fp16"),
    ],
)
def test_a_deepspeed_json_that_contradicts_the_recipe_is_refused(
    tmp_path: Any, content: dict[str, Any], message: str
) -> None:
    config = policy_config("qwen3_moe", zero_stage=2, deepspeed=user_json(tmp_path, content))
    with pytest.raises(ConfigError, match=message):
        engine_config(config)


def test_a_deepspeed_json_that_is_missing_or_broken_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        engine_config(policy_config("llama", deepspeed=str(tmp_path / "none.json")))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        engine_config(policy_config("llama", deepspeed=str(tmp_path / "broken.json")))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a JSON object"):
        engine_config(policy_config("llama", deepspeed=str(tmp_path / "list.json")))
