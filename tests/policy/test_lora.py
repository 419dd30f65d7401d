"""Adapters: what gets one, what is refused, and that everybody but the optimiser sees merged weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cascade.commands import checked_recipe
from cascade.config import LoraConfig, RewardModelStage
from cascade.errors import ConfigError, EngineError
from cascade.models.logprobs import LogProbModel
from cascade.models.moe_blocks import moe_blocks
from cascade.models.published import published_weights
from cascade.origins import Origins
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy
from cascade.policy.lora_targets import adapted_experts, adapted_modules
from cascade.sharding_checks import check_sharding
from tests.processes import ROOT
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage

CARD = {"identity": "adapted", "stage": "test", "step": 4}
TRAINED = [
    ("llama", 1, {"rank": 4}, {}),
    ("llama", 3, {"rank": 4, "targets": ["q_proj", "down_proj"]}, {"offload_optimizer": "cpu"}),
    ("qwen3_moe", 3, {"rank": 1, "experts": True}, {"activation_checkpointing": True}),
    ("nemotron_h", 2, {"rank": 2, "experts": True}, {"activation_checkpointing": True}),
    pytest.param("nemotron_h", 3, {"rank": 2, "experts": True}, {}, marks=pytest.mark.slow),
    pytest.param("qwen3_moe", 0, {"rank": 3}, {}, marks=pytest.mark.slow),
]


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(("kind", "stage", "lora", "keys"), TRAINED)
def test_what_is_published_exported_and_resumed_is_what_was_trained(
    model_folder: Callable[[str], Path],
    steps: Any,
    train: Any,
    tmp_path: Path,
    kind: str,
    stage: int,
    lora: dict[str, Any],
    keys: dict[str, Any],
) -> None:
    config = policy_config(kind, zero_stage=stage, lora=LoraConfig(alpha=8.0, **lora), **keys)

    def fresh() -> DeepSpeedPolicy:
        return DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=False)

    policy = fresh()
    assert {name for name, own in policy.model.named_parameters() if own.requires_grad} == set(policy.adapters.names)
    train(policy, steps(kind, 2), 1e-2)
    policy.save(tmp_path / "state", {"step": 2})
    trace = train(policy, steps(kind, 2, seed=9), 1e-2)
    export_policy(policy, tmp_path / "out", TOKENIZER, CARD)
    batch = batches(sequences(5, seed=7), config)[0]
    with torch.no_grad():
        log_probs, _ = policy.log_probs(batch)
    weights = {name: tensor.clone() for name, tensor in policy.weights()}
    published = {name for name, _ in published_weights(plain(model_folder(kind)), iter(weights.items()))}
    policy.close()

    merged, base = plain(tmp_path / "out"), plain(model_folder(kind))
    adapted = {name.removesuffix(".weight") for name, tensor in weights.items() if moved(base, name, tensor)}
    assert adapted == set(expected_targets(base, config.lora))
    assert set(merged.state_dict()) - set(weights) <= {"lm_head.weight"}
    assert all(torch.equal(merged.state_dict()[name], tensor) for name, tensor in weights.items())
    assert any("experts.0." in name for name in published) == (kind != "llama")
    beside = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter"))
    for model in (merged, beside.get_base_model()):
        with torch.no_grad():
            found, _ = LogProbModel(model, 7)(batch.input_ids, batch.position_ids, batch.loss_mask)
        torch.testing.assert_close(found, log_probs, atol=1e-5, rtol=0)

    policy = fresh()
    assert policy.load(tmp_path / "state") == {"step": 2}
    assert train(policy, steps(kind, 2, seed=9), 1e-2) == trace
    assert all(torch.equal(weights[name], tensor) for name, tensor in policy.weights())
    policy.close()


def moved(base: Any, name: str, tensor: torch.Tensor) -> bool:
    return not torch.equal(base.state_dict()[name], tensor)


def expected_targets(model: Any, lora: LoraConfig | None) -> list[str]:
    assert lora is not None
    blocks = moe_blocks(model)
    return [*adapted_modules(model, lora, blocks), *adapted_experts(lora, blocks)]


@pytest.mark.parametrize(
    ("kind", "last_parts"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("qwen3_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("nemotron_h", {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}),
    ],
)
def test_attention_mlps_and_shared_experts_get_adapters(
    model_folder: Callable[[str], Path], kind: str, last_parts: set[str]
) -> None:
    model = plain(model_folder(kind))
    names = expected_targets(model, LoraConfig())
    assert {name.rpartition(".")[2] for name in names} == last_parts
    if kind == "nemotron_h":
        assert not [name for name in names if name.startswith("model.layers.0.")]  # Mamba
        assert expected_targets(model, LoraConfig(targets=["in_proj"])) == ["model.layers.0.mixer.in_proj"]
    if kind != "llama":
        experts = expected_targets(model, LoraConfig(experts=True, targets=["q_proj"]))
        assert len([name for name in experts if ".experts." in name]) == 4  # two tensors in each of two layers


@pytest.mark.parametrize(
    ("kind", "lora", "message"),
    [
        ("nemotron_h", {"targets": ["out_proj"]}, "names out_proj of .*fused kernels read the weight itself"),
        ("nemotron_h", {"targets": ["q_proj", "conv1d"]}, "names conv1d of .*would ignore an adapter"),
        ("nemotron_h", {"targets": ["gate"]}, "names gate, a router"),
        ("qwen3_moe", {"targets": ["gate"]}, "names gate, a router"),
        ("llama", {"targets": ["lm_head"]}, "names lm_head, the LM head"),
        ("llama", {"targets": ["q_porj"]}, "names q_porj, .* no such linear layer.* `q_proj`"),
        ("llama", {"targets": ["embed_tokens"]}, "names embed_tokens, .* no such linear layer"),
        ("llama", {"experts": True}, "the model has no experts"),
    ],
)
def test_targets_that_an_adapter_would_not_reach_are_refused(
    model_folder: Callable[[str], Path], kind: str, lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        expected_targets(plain(model_folder(kind)), LoraConfig(**lora))


def test_a_reward_model_and_shared_out_experts_are_refused_beside_adapters() -> None:
    words = [f"recipe={ROOT / 'recipes' / 'smoke.yaml'}", "policy.lora.rank=4"]
    recipe = checked_recipe(words)[0]
    assert recipe.policy.lora == LoraConfig(rank=4)
    with pytest.raises(ConfigError, match=r"cannot go with `policy.lora="):
        checked_recipe([*words, "policy.expert_parallel=2", "launch=torchrun", "launch.processes=2"])
    stage = RewardModelStage(mix={"math": 1.0}, max_steps=1, learning_rate=1e-3)
    with pytest.raises(ConfigError, match=r"`stages.judge` trains a reward model, whose new head"):
        check_sharding(dataclasses.replace(recipe, stages={"judge": stage}), Origins((), ()))
