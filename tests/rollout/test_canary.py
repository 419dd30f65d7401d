"""The canary lets the policy's own weights pass, and stops at every corruption that publishing is known to cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cascade.config import EnvironmentConfig, ModelConfig, Recipe, RolloutConfig, SftStage
from cascade.errors import EngineError
from cascade.models.loading import load_model
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.rollout.canary import Canary, canary_sequences, check_canary
from cascade.rollout.hf import HfRolloutEngine
from tests.models.tiny import LocalPolicy
from tests.processes import torchrun
from tests.rollout.embedded import KINDS, engine
from tests.tiny_models import TOKENIZER, policy_config, sft_stage, write_model

VOCABULARY = len(TOKENIZER)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with an untrained model with tied embeddings."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path = root / kind
        return path if path.exists() else write_model(path, kind, tie_word_embeddings=True)

    return folder


class MovedPolicy(LocalPolicy):
    """A policy whose weights have moved from the checkpoint as far as some steps of training move them."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(load_model(folder, policy_config(kind)).eval())
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        persistent = set(self.model.state_dict())
        yield from self.model.named_parameters()
        yield from ((name, buffer) for name, buffer in self.model.named_buffers() if name in persistent)


def published(folder: Path, kind: str, **keys: Any) -> tuple[HfRolloutEngine, Any, State]:
    """An engine that has the weights of a moved policy, the policy, and the state that the engine had before."""
    sampler, policy = engine(folder, kind, **keys), MovedPolicy(folder, kind)
    before = {name: tensor.clone() for name, tensor in sampler.model.state_dict().items()}
    sampler.publish(policy, 1)  # type: ignore[arg-type]
    return sampler, policy, before


def check(sampler: HfRolloutEngine, policy: Any, kind: str, threshold: float | None = None) -> dict[str, float]:
    sequences = canary_sequences(VOCABULARY, policy_config(kind).row_tokens)
    return check_canary(sampler, policy, sequences, policy_config(kind), 0, threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_the_policys_own_weights_pass(model_folder: Callable[[str], Path], kind: str) -> None:
    sampler, policy, _ = published(model_folder(kind), kind)
    metrics = check(sampler, policy, kind)
    assert set(metrics) == {"canary/mean_abs_log_prob_gap", "canary/max_abs_log_prob_gap"}
    assert max(metrics.values()) < 1e-6
    with pytest.raises(EngineError, match="version 0"):  # the weights before publishing do not
        check(engine(model_folder(kind), kind), policy, kind)


def stale_tied_head(model: Any, before: State) -> None:
    model.lm_head.weight = nn.Parameter(before["model.embed_tokens.weight"])


def swapped_expert(model: Any, _: State) -> None:
    experts = model.model.layers[1].mlp.experts
    for fused in (experts.gate_up_proj, experts.down_proj):
        fused[[0, 3]] = fused[[3, 0]].clone()


def experts_off_by_one(model: Any, _: State) -> None:
    fused = model.model.layers[0].mlp.experts.down_proj
    fused.copy_(fused.roll(1, 0))


def halves_exchanged(model: Any, _: State) -> None:
    """up before gate, as some engines lay out the fused tensor."""
    fused = model.model.layers[0].mlp.experts.gate_up_proj
    fused.copy_(fused.roll(fused.shape[1] // 2, 1))


def stale_experts(model: Any, before: State) -> None:
    """As where a kernel reads a packed copy of the experts that nobody made anew."""
    for name, tensor in model.state_dict().items():
        if ".experts." in name:
            tensor.copy_(before[name])


def rounded_to_bf16(model: Any, _: State) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())


def not_a_number(model: Any, _: State) -> None:
    model.model.norm.weight[3] = float("nan")


PLANTED = (
    stale_tied_head,
    swapped_expert,
    experts_off_by_one,
    halves_exchanged,
    stale_experts,
    rounded_to_bf16,
    not_a_number,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_corruption_is_caught(model_folder: Callable[[str], Path], plant: Callable[[Any, State], None]) -> None:
    sampler, policy, before = published(model_folder("qwen3_moe"), "qwen3_moe")
    with torch.no_grad():
        plant(sampler.model, before)
    with pytest.raises(EngineError, match="does not have the policy's weights of version 1"):
        check(sampler, policy, "qwen3_moe")


@pytest.mark.parametrize("kind", ("qwen3_moe", "llama"))  # some of Mamba's tensors hardly matter in so small a model
def test_any_one_tensor_that_was_skipped_is_caught(model_folder: Callable[[str], Path], kind: str) -> None:
    sampler, policy, before = published(model_folder(kind), kind)
    for name, tensor in sampler.model.named_parameters():
        now = tensor.detach().clone()
        with torch.no_grad():
            tensor.copy_(before[name])
            with pytest.raises(EngineError, match="does not have the policy's weights"):
                pytest.fail(f"{name}: {check(sampler, policy, kind)}")
            tensor.copy_(now)
    check(sampler, policy, kind)


def test_an_engine_in_bf16_under_a_policy_in_fp32_is_caught(model_folder: Callable[[str], Path]) -> None:
    sampler, policy, _ = published(model_folder("qwen3_moe"), "qwen3_moe", dtype="bf16")
    with pytest.raises(EngineError, match="another dtype on one side"):
        check(sampler, policy, "qwen3_moe")
    assert check(sampler, policy, "qwen3_moe", threshold=0.15)["canary/mean_abs_log_prob_gap"] > 1e-4


def test_the_error_has_all_the_numbers(model_folder: Callable[[str], Path]) -> None:
    sampler, policy, before = published(model_folder("qwen3_moe"), "qwen3_moe")
    with torch.no_grad():
        stale_tied_head(sampler.model, before)
    gaps = check(sampler, policy, "qwen3_moe", threshold=100.0)
    assert gaps["canary/max_abs_log_prob_gap"] > gaps["canary/mean_abs_log_prob_gap"] > 0.01
    with pytest.raises(EngineError) as caught:
        check(sampler, policy, "qwen3_moe", threshold=0.01)
    found = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", caught.value.what)]
    mean_gap, largest = gaps["canary/mean_abs_log_prob_gap"], gaps["canary/max_abs_log_prob_gap"]
    assert found[:4] == pytest.approx([1, mean_gap, 0.01, largest], rel=0.01)
    scores = sampler.score(canary_sequences(VOCABULARY, 48), 1.0)
    assert found[5] == pytest.approx(sum(map(sum, scores)) / (4 * 47), rel=1e-4)
    assert found[4] != found[5]
    assert all(cause in caught.value.fix for cause in ("lm_head", "repacked", "skipped", "out of place", "dtype"))


def test_the_engine_that_deepspeed_publishes_to_passes(model_folder: Callable[[str], Path]) -> None:
    config = policy_config("qwen3_moe", zero_stage=3)
    policy = DeepSpeedPolicy(model_folder("qwen3_moe"), config, sft_stage(), freeze_router=False)
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    sampler.publish(policy, 1)
    assert max(check(sampler, policy, "qwen3_moe").values()) < 1e-6
    with torch.no_grad():
        swapped_expert(sampler.model, {})
    with pytest.raises(EngineError, match="does not have the policy's weights"):
        check(sampler, policy, "qwen3_moe")
    policy.close()


def test_one_bad_rank_stops_all_of_them(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    torchrun(2, "tests/rollout/canary_two_ranks.py", str(model_folder("qwen3_moe")), str(tmp_path))
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in range(2))
    assert first[0] == second[0] == "passes"
    assert first == second
    assert all("does not have the policy's weights" in line for line in first[1:3])
    assert "The replica is gone." in first[3]
    assert len(first) == 4


def test_canary_sequences_are_fixed_and_spread_over_the_vocabulary() -> None:
    sequences = canary_sequences(1000, 4096)
    assert [len(sequence.token_ids) for sequence in sequences] == [64] * 4
    assert all(sequence.loss_mask == (0,) + (1,) * 63 for sequence in sequences)
    assert sequences == canary_sequences(1000, 4096)
    assert sequences != canary_sequences(1000, 4096, seed=1)
    ids = {token for sequence in sequences for token in sequence.token_ids}
    assert len(ids) > 200
    assert 0 <= min(ids) < 50
    assert 950 < max(ids) < 1000
    assert [len(sequence.token_ids) for sequence in canary_sequences(1000, 7, count=2)] == [7, 7]


def test_canary_sequences_reach_every_expert(model_folder: Callable[[str], Path]) -> None:
    """An expert that no token is sent to could be anything."""
    sampler, policy, _ = published(model_folder("qwen3_moe"), "qwen3_moe")
    for layer in sampler.model.model.layers:
        for expert in range(4):
            fused = layer.mlp.experts.down_proj
            now = fused[expert].detach().clone()
            with torch.no_grad():
                fused[expert] = 0.0
                with pytest.raises(EngineError, match="does not have the policy's weights"):
                    check(sampler, policy, "qwen3_moe")
                fused[expert] = now


def recipe(**keys: Any) -> Recipe:
    stage = {"kind": "sft", "mix": {"addition": 1.0}, "max_steps": 1, "learning_rate": 0.0}
    return Recipe(
        name="tiny",
        run_dir="unused",
        model=ModelConfig(path="unused"),
        policy=policy_config("qwen3_moe"),
        rollout=RolloutConfig(**keys),
        environments={"addition": EnvironmentConfig(kind="addition", domain="math")},
        stages={"sft": SftStage(**stage)},
    )


def test_a_recipe_says_how_long_and_how_strict_a_canary_is(model_folder: Callable[[str], Path]) -> None:
    canary = Canary.of(recipe(canary_every=3), TOKENIZER)
    assert canary.sequences == canary_sequences(VOCABULARY, 48)  # a row of the policy
    assert canary.every == 3
    short = Canary.of(recipe(max_model_len=20), TOKENIZER)  # to score, an engine samples a token behind the others
    assert [len(sequence.token_ids) for sequence in short.sequences] == [19] * 4
    sampler, policy, before = published(model_folder("qwen3_moe"), "qwen3_moe")
    assert max(canary.check(sampler, policy).values()) < 1e-6
    with torch.no_grad():
        stale_tied_head(sampler.model, before)
    with pytest.raises(EngineError, match=r"allowed: 0.0001\b"):
        canary.check(sampler, policy)
    Canary.of(recipe(canary_threshold=100.0), TOKENIZER).check(sampler, policy)


def test_canaries_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(EngineError, match="1 token"):
        canary_sequences(1000, 1)


def test_half_a_model_cannot_pass(model_folder: Callable[[str], Path]) -> None:
    """An engine without whole weights fails the check instead of hanging other ranks in it."""
    policy: Any = MovedPolicy(model_folder("llama"), "llama")
    sampler = HfRolloutEngine(policy_config("llama"), RolloutConfig(), TOKENIZER)
    with pytest.raises(EngineError, match="no weights"):
        check(sampler, policy, "llama")
