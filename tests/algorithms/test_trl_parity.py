"""Cascade's GRPO is TRL's: loss and all gradients against the installed `GRPOTrainer` on batches that it sampled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.algorithms.grpo import group_advantages
from cascade.algorithms.losses import sequence_weights
from cascade.config import RlStage
from cascade.data.characters import character_tokenizer
from cascade.data.packing import pack
from cascade.types import TrainingSequence
from tests.models.tiny import LocalPolicy, build, llama, run

trl = pytest.importorskip("trl")
from datasets import Dataset  # noqa: E402

GROUPS, GENERATIONS, TEMPERATURE = 3, 4, 0.7
PROMPTS = ("ab", "abcabc", "c")  # of several lengths, so that TRL pads on the left
REWARDS = (1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0, 0.25, 0.25, 0.25, 0.25)  # the last group has no signal
LOW, HIGH = 0.1, 0.15


def reward(completions: list[str], **_: Any) -> list[float]:
    return list(REWARDS[: len(completions)])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = character_tokenizer("abcdefgh", "{{ messages }}")
    config = llama(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    config.vocab_size = len(tokenizer)
    build(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_trainer(folder: Path, output: Path, **more: Any) -> Any:
    """A real trainer on the model in `folder`, ready to sample and to compute losses."""
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=GROUPS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=14,
        temperature=TEMPERATURE,
        epsilon=LOW,
        epsilon_high=HIGH,
        seed=5,
        use_bias_correction_kl=False,  # TRL's default multiplies k3 by the ratio; Cascade's `kl_coef` is plain k3
        **more,
    )
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
    )
    trainer.current_gradient_accumulation_steps = 1  # `train()` sets it
    trainer.model.train()
    return trainer


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate would take what another test left in the environment for a launcher."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        if name in os.environ:
            monkeypatch.delenv(name)


def nudge(model: Any, seed: int, size: float) -> None:
    """Other weights, as after a few optimiser steps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def sample(trainer: Any) -> dict[str, torch.Tensor]:
    rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(GENERATIONS)]
    return trainer._generate_and_score_completions(rows)


def to_sequences(inputs: dict[str, torch.Tensor]) -> list[TrainingSequence]:
    """The rows of TRL's padded batch as Cascade's documents."""
    sequences = []
    for i in range(len(inputs["prompt_ids"])):
        prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist()
        kept = inputs["completion_mask"][i].bool()
        completion = inputs["completion_ids"][i][kept].tolist()
        log_probs = {
            name: (0.0,) * len(prompt) + tuple(inputs[name][i][kept].tolist())
            for name in ("old_per_token_logps", "ref_per_token_logps")
            if name in inputs
        }
        sequences.append(
            TrainingSequence(
                tuple(prompt + completion),
                (0,) * len(prompt) + (1,) * len(completion),
                sampler_log_probs=log_probs.get("old_per_token_logps", ()),
                advantage=float(inputs["advantages"][i]),
                reference_log_probs=log_probs.get("ref_per_token_logps", ()),
            )
        )
    return sequences


def trl_loss(trainer: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad(set_to_none=True)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


def cascade_loss(
    trainer: Any, inputs: dict[str, torch.Tensor], **switches: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    stage = RlStage(
        mix={"addition": 1.0},
        max_steps=1,
        learning_rate=1.0,
        temperature=TEMPERATURE,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        **switches,
    )
    sequences = to_sequences(inputs)
    weights = sequence_weights([s.loss_tokens for s in sequences], stage.loss_reduction)
    batches = pack(sequences, weights, row_tokens=24, rows_per_batch=2, ranks=1, rank=0, pad_id=0, one_per_row=False)
    assert len(batches) > 1
    loss, gradients, _ = run(LocalPolicy(trainer.model, chunk=8), batches, stage)
    return loss, gradients


CASES = [  # TRL's loss, our reduction, updates a batch, KL coefficient, level of the ratio
    ("dapo", "token", 1, 0.0, "token"),
    ("bnpo", "token", 1, 0.0, "token"),
    ("grpo", "sequence", 1, 0.0, "token"),
    ("dapo", "token", 2, 0.0, "token"),
    ("bnpo", "token", 2, 0.0, "token"),
    ("grpo", "sequence", 2, 0.0, "token"),
    ("dapo", "token", 1, 0.3, "token"),
    ("grpo", "sequence", 2, 0.3, "token"),
    ("grpo", "sequence", 2, 0.0, "sequence"),
    ("dapo", "token", 2, 0.0, "sequence"),
]


@pytest.mark.parametrize(("loss_type", "reduction", "iterations", "beta", "level"), CASES)
def test_loss_and_every_gradient_equal_trl(
    model_folder: Path, tmp_path: Path, loss_type: str, reduction: str, iterations: int, beta: float, level: str
) -> None:
    trainer = build_trainer(
        model_folder,
        tmp_path,
        loss_type=loss_type,
        num_iterations=iterations,
        beta=beta,
        importance_sampling_level=level,
    )
    if beta:
        nudge(trainer.ref_model, seed=1, size=0.05)
    inputs = sample(trainer)
    assert len(set(inputs["completion_mask"].sum(1).tolist())) > 2, "completions of several lengths"
    assert ("old_per_token_logps" in inputs) == (iterations > 1)
    if iterations > 1:
        nudge(trainer.model, seed=2, size=0.02)

    expected, expected_gradients = trl_loss(trainer, inputs)
    got, gradients = cascade_loss(
        trainer, inputs, loss_reduction=reduction, num_iterations=iterations, kl_coef=beta, ratio_level=level
    )

    if iterations > 1 and level == "token":
        assert 0.05 < trainer._metrics["train"]["clip_ratio/region_mean"][-1] < 0.95, "some tokens clipped, some not"
    assert got == pytest.approx(expected, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-2, "gradients far above tolerance"


def test_unscaled_advantages_equal_trl(model_folder: Path, tmp_path: Path) -> None:
    inputs = sample(build_trainer(model_folder, tmp_path, scale_rewards="none"))
    rewards = torch.tensor(REWARDS).view(GROUPS, GENERATIONS)
    ours = torch.stack([group_advantages(group, scale=False) for group in rewards])
    torch.testing.assert_close(ours.flatten(), inputs["advantages"], rtol=1e-6, atol=1e-6)


def test_scaled_advantages_differ_from_trl_by_its_standard_deviation_only(model_folder: Path, tmp_path: Path) -> None:
    """TRL divides by the unbiased std plus 1e-4, Cascade (as the paper's eq. 1) by the population std alone."""
    inputs = sample(build_trainer(model_folder, tmp_path))
    rewards = torch.tensor(REWARDS).view(GROUPS, GENERATIONS)
    ours = torch.stack([group_advantages(group) for group in rewards])
    population = rewards.std(1, correction=0, keepdim=True)
    converted = ours * population / (rewards.std(1, correction=1, keepdim=True) + 1e-4)
    torch.testing.assert_close(converted.flatten(), inputs["advantages"], rtol=1e-5, atol=1e-5)
    apart = (ours.flatten() / inputs["advantages"])[:8]
    assert bool((apart > 1.15).all())  # sqrt(G / (G - 1)) = 1.1547: the difference is real
    assert inputs["advantages"][8:].tolist() == ours[2].tolist() == [0.0] * 4
