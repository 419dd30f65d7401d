"""Experts are balanced and counted over the whole step: however it is cut, dealt and sharded, and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import RewardModelStage, RolloutConfig
from cascade.errors import EngineError
from cascade.objectives import micro_batch_loss
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.expert_training import check_expert_keys
from cascade.policy.export import export_policy
from cascade.policy.reward import DeepSpeedRewardModel
from cascade.rollout.hf import HfRolloutEngine
from cascade.step import PairWorkers, pair_step
from tests.policy.expert_training_ranks import COEFFICIENT, STEPS, train
from tests.policy.reward_two_ranks import pairs
from tests.processes import ROOT, torchrun
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage, write_model

FAST = ("nemotron_h:experts", "qwen3_moe:slices")
SLOW = ("qwen3_moe:zero1", "qwen3_moe:zero3", "nemotron_h:zero2")
BIASED = "nemotron_h"


@pytest.fixture(scope="module")
def launched(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """(kind, way, rank) -> what two processes made of it; one launch for all fast ways, and one for all slow ones."""
    out = tmp_path_factory.mktemp("expert_training")
    models = {model_folder(kind).parent for kind in ("qwen3_moe", "nemotron_h")}.pop()

    def get(kind: str, way: str, rank: int) -> Any:
        file = out / f"{kind}_{way}_{rank}.pt"
        if not file.exists():
            together = FAST if f"{kind}:{way}" in FAST else SLOW
            torchrun(2, str(ROOT / "tests/policy/expert_training_ranks.py"), str(models), str(out), *together)
        return torch.load(file)

    return get


@pytest.mark.parametrize("asked", [*FAST, *(pytest.param(asked, marks=pytest.mark.slow) for asked in SLOW)])
def test_two_processes_balance_and_count_as_one_does(
    launched: Callable[..., Any], model_folder: Callable[[str], Path], asked: str
) -> None:
    kind, way = asked.split(":")
    alone = train(model_folder(kind), kind, "whole" if way == "slices" else "zero0")
    for rank in (0, 1):
        seen = launched(kind, way, rank)
        for step in range(len(STEPS)):
            assert seen["losses"][step] == pytest.approx(alone["losses"][step], abs=2e-6)
            assert seen["metrics"][step] == pytest.approx(alone["metrics"][step], abs=1e-4)
        assert seen["biases"] == alone["biases"]
        for name, tensor in alone["weights"].items():
            torch.testing.assert_close(seen["weights"][name], tensor, atol=1e-4, rtol=0, msg=name)
    assert alone["metrics"][1]["experts/max_violation"] > 1
    assert alone["metrics"][1]["replay/changed"] > 0
    assert 0.1 < alone["metrics"][1]["replay/missing"] < 0.9
    assert (kind == BIASED) == bool(alone["biases"])


def total_gradient(folder: Path, kind: str, **keys: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Aux loss and gradients of one step over 7 documents, rows and micro-batches as `keys` say."""
    config = policy_config(kind, zero_stage=0, **keys)
    stage = sft_stage(router_aux_loss_coef=1.0)
    policy = DeepSpeedPolicy(folder, config, stage, freeze_router=False)
    aux = 0.0
    for batch in batches(sequences(7), config):
        loss, sums = micro_batch_loss(policy, batch, stage)
        policy.backward(loss)
        aux += sums["aux_loss"].item()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.close()
    return aux, gradients


def test_loss_and_gradients_do_not_depend_on_packing_micro_batches_or_recomputation(
    model_folder: Callable[[str], Path],
) -> None:
    folder = model_folder("qwen3_moe")
    aux, expected = total_gradient(folder, "qwen3_moe")
    for keys in ({"packing": False, "rows_per_micro_batch": 1}, {"row_tokens": 96}, {"activation_checkpointing": True}):
        other, gradients = total_gradient(folder, "qwen3_moe", **keys)
        assert other == pytest.approx(aux, rel=1e-5)
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


def test_the_balance_loss_adds_the_gradient_of_the_papers_formula(model_folder: Callable[[str], Path]) -> None:
    """Against autograd of Switch Transformer's formula, document by document, on a plain model."""
    folder, kind = model_folder("qwen3_moe"), "qwen3_moe"
    _, with_balance = total_gradient(folder, kind)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    documents = sequences(7)
    tokens, in_loss = sum(len(d.token_ids) for d in documents), sum(d.loss_tokens for d in documents)
    logits: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, args, output: logits.append(output[0]))
    for document in documents:
        logits.clear()
        ids = torch.tensor([document.token_ids])
        found = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(1)
        mask = torch.tensor(document.loss_mask[1:])
        loss = -(found.gather(1, ids[0, 1:, None]).squeeze(1) * mask).sum() / in_loss
        for router_logits in logits:
            probabilities = router_logits.softmax(1)
            chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2).indices, 1.0)
            fraction = chosen.mean(0) * probabilities.shape[1] / 2
            loss = loss + len(document.token_ids) / tokens * (fraction * probabilities.mean(0)).sum()
        loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(with_balance[name], parameter.grad, atol=2e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def skewed(folder: Path) -> Path:
    """A model whose routers send nearly every token to expert 0."""
    path = write_model(folder, BIASED)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.tensor([0.2, 0.1, 0.0, 0.0]))
    model.save_pretrained(path)
    return path


def steps(policy: DeepSpeedPolicy, numbers: range) -> list[float]:
    """Trains; the max violation of every step."""
    found = []
    for _ in numbers:
        for batch in batches(sequences(6), policy_config(BIASED, rows_per_micro_batch=6)):
            log_probs, _ = policy.log_probs(batch)
            policy.backward(-(log_probs * batch.token_weight).sum())
        found.append(policy.step(1e-5)["experts/max_violation"])
    return found


def biases(policy: DeepSpeedPolicy) -> list[list[float]]:
    return [bias.value.tolist() for bias in policy.experts.biases]


@pytest.mark.parametrize("dtype", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_bias_updates_even_out_a_skewed_load_and_go_on_after_a_restart(tmp_path: Path, dtype: str) -> None:
    folder = skewed(tmp_path / "model")
    config = policy_config(BIASED, zero_stage=3 if dtype == "fp32" else 1, dtype=dtype)
    stage = sft_stage(expert_bias_update_rate=0.01)

    def fresh() -> DeepSpeedPolicy:
        return DeepSpeedPolicy(folder, config, stage, freeze_router=True)

    policy = fresh()
    violations = steps(policy, range(20))
    policy.save(tmp_path / "state", {"step": 20})
    violations += steps(policy, range(20, 30))
    after, exported = biases(policy), tmp_path / "exported"
    export_policy(policy, exported, TOKENIZER, {"identity": "x", "stage": "test", "step": 30})
    sampler = HfRolloutEngine(config, RolloutConfig(), TOKENIZER)
    sampler.load(folder)
    sampler.publish(policy, 1)
    policy.close()
    assert violations[0] > 1.5
    assert min(violations[-3:]) < violations[0] - 0.3

    again = fresh()
    again.load(tmp_path / "state")
    assert steps(again, range(20, 30)) == violations[20:]
    assert biases(again) == after
    again.close()

    loaded = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    for model in (sampler.model, loaded):
        buffers = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
        assert [buffer.tolist() for buffer in buffers] == after  # float32 throughout: bf16 would round 0.19 to 0.1904
    assert any(value != torch.tensor(value).bfloat16().item() for layer in after for value in layer)


def test_a_rate_of_zero_moves_no_bias(model_folder: Callable[[str], Path]) -> None:
    stage = sft_stage(expert_bias_update_rate=0.01)
    policy = DeepSpeedPolicy(model_folder(BIASED), policy_config(BIASED), stage, freeze_router=True)
    for batch in batches(sequences(4), policy_config(BIASED)):
        policy.backward(-(policy.log_probs(batch)[0] * batch.token_weight).sum())
    assert "experts/max_violation" in policy.step(0.0)
    assert biases(policy) == [[0.0] * 4] * 2
    policy.close()


def test_passes_without_gradients_are_not_counted(model_folder: Callable[[str], Path]) -> None:
    policy = DeepSpeedPolicy(model_folder("qwen3_moe"), policy_config("qwen3_moe"), sft_stage(), freeze_router=True)
    (batch, *_) = batches(sequences(4), policy_config("qwen3_moe"))
    with torch.no_grad():
        policy.log_probs(batch)
    assert int(policy.experts.routing.loads.sum()) == 0
    policy.close()


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("qwen3_moe", {"expert_bias_update_rate": 0.001}, "no selection bias to update"),
        ("llama", {"expert_bias_update_rate": 0.001}, "has no experts, which `expert_bias_update_rate` needs"),
        ("llama", {"router_aux_loss_coef": COEFFICIENT}, "has no experts, which `router_aux_loss_coef` needs"),
    ],
)
def test_what_an_architecture_has_nothing_for_is_refused_before_training_and_by_the_engine(
    model_folder: Callable[[str], Path], kind: str, keys: dict[str, float], message: str
) -> None:
    stage = sft_stage(**keys)
    with pytest.raises(EngineError, match=message):
        check_expert_keys(model_folder(kind), [sft_stage(), stage])
    with pytest.raises(EngineError, match=message):
        DeepSpeedPolicy(model_folder(kind), policy_config(kind), stage, freeze_router=False)


def test_what_an_architecture_can_do_is_not_refused(model_folder: Callable[[str], Path]) -> None:
    check_expert_keys(model_folder("llama"), [sft_stage()])
    check_expert_keys(model_folder("qwen3_moe"), [sft_stage(router_aux_loss_coef=COEFFICIENT)])
    check_expert_keys(model_folder(BIASED), [sft_stage(expert_bias_update_rate=0.01)])


def test_a_reward_model_is_balanced_too(model_folder: Callable[[str], Path]) -> None:
    config = policy_config("qwen3_moe", packing=False, rows_per_micro_batch=2)
    stage = RewardModelStage(
        mix={"pairs": 1.0}, max_steps=1, learning_rate=1e-3, batch_size=3, router_aux_loss_coef=COEFFICIENT
    )
    folder = model_folder("qwen3_moe")
    model = DeepSpeedRewardModel(folder, config, stage, freeze_router=False, pad_id=0, seed=3)
    source: Any = SimpleNamespace(pairs=lambda count: pairs(count, seed=0))
    measured = pair_step(PairWorkers(model, source, config, 0), stage, 1e-3).metrics
    model.close()
    assert measured["aux_loss"] > 0.9
    assert measured["experts/max_violation"] >= 1


def test_a_dense_model_has_no_expert_metrics(model_folder: Callable[[str], Path]) -> None:
    policy = DeepSpeedPolicy(model_folder("llama"), policy_config("llama"), sft_stage(), freeze_router=False)
    for batch in batches(sequences(4), policy_config("llama")):
        policy.backward(-(policy.log_probs(batch)[0] * batch.token_weight).sum())
    assert set(policy.step(1e-3)) == {"grad_norm", "learning_rate"}
    policy.close()
