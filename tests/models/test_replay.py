"""With replay the trainer uses the sampler's experts, every one; without it log-probs jump where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import RlStage, RolloutConfig
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.types import PackedBatch, Rollout, TrainingSequence
from tests.rollout.embedded import Engine, flat, prompts
from tests.tiny_models import TOKENIZER, batches, policy_config, write_model

KINDS = ("qwen3_moe", pytest.param("nemotron_h", marks=pytest.mark.slow))


@dataclass(frozen=True)
class Seen:
    """What the trainer made of sampled rollouts."""

    gap: float  # mean |log pi_train - log pi_inf|, nats
    worst: float  # largest
    agreed: float  # share of recorded tokens and layers in which it used the sampler's experts
    changed: float | None  # `replay/changed`
    missing: float | None  # `replay/missing`


def sequence(rollout: Rollout) -> TrainingSequence:
    prompt, completion = rollout.prompt.token_ids, rollout.token_ids
    return TrainingSequence(
        prompt + completion,
        (0,) * len(prompt) + (1,) * len(completion),
        (0.0,) * len(prompt) + rollout.sampler_log_probs,
        routed_experts=rollout.routed_experts,
    )


def without(batch: PackedBatch) -> PackedBatch:
    """The batch without its record."""
    fields = {name: getattr(batch, name) for name in batch.__slots__ if name != "routed_experts"}
    return PackedBatch(**fields)


def trained(folder: Path, kind: str, rollouts: Sequence[Rollout], *, replay: bool, **keys: Any) -> Seen:
    """One step of the policy on the rollouts."""
    config = policy_config(kind, **keys)
    stage = RlStage(mix={"math": 1.0}, max_steps=1, learning_rate=1e-4, routing_replay=replay)
    policy = DeepSpeedPolicy(folder, config, stage, freeze_router=True)
    gaps, agreed = [], []
    for batch in batches([sequence(rollout) for rollout in rollouts], config):
        log_probs, _ = policy.log_probs(batch if replay else without(batch))
        gaps.append((log_probs.detach() - batch.sampler_log_probs).abs()[batch.loss_mask.bool()])
        agreed.append(_agreement(policy, batch))
        policy.backward(-(log_probs * batch.token_weight).sum())
    measured = policy.step(1e-4)
    policy.close()
    every = torch.cat(gaps)
    same = torch.cat(agreed).float().mean().item()
    changed, missing = (measured.get(f"replay/{name}") for name in ("changed", "missing"))
    return Seen(every.mean().item(), every.max().item(), same, changed, missing)


def _agreement(policy: DeepSpeedPolicy, batch: PackedBatch) -> torch.Tensor:
    """Of every recorded token and layer, whether the latest pass used the recorded set."""
    assert batch.routed_experts is not None
    assert policy.experts.routing.latest is not None
    taken = torch.stack([one for one in policy.experts.routing.latest.taken if one is not None], 1)  # [N, L, K]
    recorded = batch.routed_experts.flatten(0, 1).long()
    same = (taken.sort(-1).values == recorded.sort(-1).values).all(-1)
    return same[recorded[:, 0, 0] >= 0]


def sampled(folder: Path, kind: str, **keys: Any) -> list[Rollout]:
    sampler = Engine(policy_config(kind, **keys), RolloutConfig(batch_sequences=16, record_routing=True), TOKENIZER)
    sampler.load(folder)
    return flat(sampler.sample(prompts(6), 3, 1.0, 16, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(kind, change of the model) -> a folder with it."""
    root = tmp_path_factory.mktemp("replay")

    def get(kind: str, change: Callable[[Any], None] | None = None) -> Path:
        path = root / f"{kind}_{change.__name__ if change else 'plain'}"
        if not path.exists():
            write_model(path, kind)
            if change:
                model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
                change(model)
                model.save_pretrained(path)
        return path

    return get


@torch.no_grad()
def perturbed(model: Any) -> None:
    """As after a small step that the sampler has not seen."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 3e-3)


@torch.no_grad()
def near_ties(model: Any) -> None:
    """Routers that only rounding lets choose between experts 1 and 2; what the two do differs by much."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            parameter[2] = parameter[1] + torch.randn(parameter[1].shape, generator=generator) * 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h"))
def test_with_equal_weights_and_fp32_the_record_is_what_the_trainer_chooses_anyway(
    folder: Callable[..., Path], kind: str
) -> None:
    path = folder(kind)
    rollouts = sampled(path, kind)
    plain, replayed = (trained(path, kind, rollouts, replay=replay) for replay in (False, True))
    assert plain.agreed == replayed.agreed == 1.0
    assert replayed.worst < 1e-5
    assert (plain.changed, plain.missing) == (None, None)
    assert (replayed.changed, replayed.missing) == (0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_differ_choose_other_experts_without_replay_and_the_same_with_it(
    folder: Callable[..., Path], kind: str
) -> None:
    rollouts = sampled(folder(kind), kind)
    path = folder(kind, perturbed)
    plain, replayed = (trained(path, kind, rollouts, replay=replay) for replay in (False, True))
    assert plain.agreed < 1.0
    assert replayed.agreed == 1.0
    assert replayed.changed is not None
    assert replayed.changed > 0
    assert replayed.gap < plain.gap
    assert replayed.worst < plain.worst


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h"))
def test_a_sampler_in_bf16_chooses_other_experts_without_replay_and_the_same_with_it(
    folder: Callable[..., Path], kind: str
) -> None:
    path = folder(kind)
    rollouts = sampled(path, kind, dtype="bf16")
    plain, replayed = (trained(path, kind, rollouts, replay=replay) for replay in (False, True))
    assert plain.agreed < 1.0
    assert replayed.agreed == 1.0
    assert replayed.gap < plain.gap


@pytest.mark.parametrize("kind", KINDS)
def test_with_equal_weights_and_experts_that_nearly_tie_the_mismatch_is_zero_with_replay_only(
    folder: Callable[..., Path], kind: str
) -> None:
    """Sampler and trainer differ by rounding alone: one token at a time there, whole rows here."""
    path = folder(kind, near_ties)
    rollouts = sampled(path, kind)
    plain, replayed = (trained(path, kind, rollouts, replay=replay) for replay in (False, True))
    assert plain.agreed < 1.0
    assert plain.worst > 1e-2
    assert replayed.agreed == 1.0
    assert replayed.worst < 1e-5
    assert replayed.changed is not None
    assert replayed.changed > 0


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"zero_stage": 3}, {"activation_checkpointing": True}], ids=["zero3", "recomputed"])
def test_replay_holds_under_zero_3_and_recomputation(folder: Callable[..., Path], keys: dict[str, Any]) -> None:
    rollouts = sampled(folder("qwen3_moe"), "qwen3_moe")
    path = folder("qwen3_moe", perturbed)
    expected = trained(path, "qwen3_moe", rollouts, replay=True)
    found = trained(path, "qwen3_moe", rollouts, replay=True, **keys)
    assert found.agreed == 1.0
    assert found.gap == pytest.approx(expected.gap, abs=1e-6)
    assert found.changed == expected.changed


def test_tokens_without_a_record_are_counted_and_routed_live(folder: Callable[..., Path]) -> None:
    path = folder("qwen3_moe")
    rollouts = sampled(path, "qwen3_moe")
    assert rollouts[0].routed_experts is not None
    cut = [replace(one, routed_experts=one.routed_experts[:-2]) for one in rollouts if one.routed_experts is not None]
    seen = trained(path, "qwen3_moe", cut, replay=True)
    followed = sum(len(one.prompt.token_ids) + len(one.token_ids) - 1 for one in cut)
    assert seen.missing == pytest.approx(2 * len(cut) / followed)
    assert seen.worst < 1e-5
