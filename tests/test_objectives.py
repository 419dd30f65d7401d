"""Loss, gradients and metric sums of a step do not depend on how its sequences are laid out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from cascade.algorithms.losses import sequence_weights
from cascade.config import MopdStage, RlStage, SftStage
from cascade.data.packing import pack
from cascade.objectives import micro_batch_loss
from cascade.types import PackedBatch, TrainingSequence
from tests.models.tiny import VOCABULARY, Gradients, LocalPolicy, TablePolicy, build, llama, nemotron_h, run

LENGTHS = ((3, 9), (5, 4), (2, 1), (7, 13), (1, 6), (4, 4), (2, 11))  # prompt and completion
TOP = 4
Stage = SftStage | RlStage | MopdStage


def make(kind: Callable[..., Stage], **more: Any) -> Stage:
    return kind(mix={"addition": 1.0}, max_steps=1, learning_rate=1.0, **more)


STAGES = {
    "sft": make(SftStage),
    "grpo_token": make(RlStage, loss_reduction="token", temperature=0.7),
    "grpo_sequence": make(RlStage, loss_reduction="sequence"),
    "grpo_off_policy_kl": make(RlStage, num_iterations=2, kl_coef=0.1, importance="clamp"),
    "gspo": make(RlStage, num_iterations=2, ratio_level="sequence", loss_reduction="sequence"),
    "mopd_sequence": make(MopdStage, loss_reduction="sequence", temperature=0.7),
    "mopd_token": make(MopdStage, loss_reduction="token", teacher_mix=0.8, outcome_weight=0.5),
    "mopd_sequence_gate": make(MopdStage, importance="sequence_gate", importance_low=0.8, importance_high=1.1),
    "mopd_top_k": make(MopdStage, top_k=TOP),
}


def near(values: torch.Tensor, spread: float, generator: torch.Generator) -> tuple[float, ...]:
    return tuple((values + spread * torch.randn(values.shape, generator=generator, dtype=values.dtype)).tolist())


def sequences_for(model: Any, temperature: float) -> list[TrainingSequence]:
    """Documents with log-probs near the model's own, so that some tokens are gated and some are clipped."""
    generator = torch.Generator().manual_seed(0)
    policy = LocalPolicy(model)
    sequences = []
    for index, (prompt, completion) in enumerate(LENGTHS):
        tokens = torch.randint(0, VOCABULARY, (prompt + completion,), generator=generator)
        mask = (0,) * prompt + (1,) * completion
        bare = TrainingSequence(tuple(tokens.tolist()), mask)
        with torch.no_grad():
            (batch,) = lay_out([bare], make(SftStage))
            own = policy.log_probs(batch, temperature)[0][0][prompt:]
        top = torch.log_softmax(torch.randn(completion, VOCABULARY, generator=generator), -1).topk(TOP)
        zeros = (0.0,) * prompt
        sequences.append(
            TrainingSequence(
                bare.token_ids,
                mask,
                sampler_log_probs=zeros + near(own, 0.5, generator),
                advantage=(-1.0) ** index * (0.3 + 0.2 * index),
                teacher_log_probs=zeros + near(own, 1.0, generator),
                reference_log_probs=zeros + near(own, 0.3, generator),
                teacher_top=(top.indices, top.values),
            )
        )
    return sequences


def lay_out(
    sequences: Sequence[TrainingSequence],
    stage: Stage,
    *,
    row_tokens: int = 24,
    rows_per_batch: int = 2,
    ranks: int = 1,
    one_per_row: bool = False,
) -> list[PackedBatch]:
    """The micro-batches of all ranks, one rank after the other."""
    reduction = "token" if isinstance(stage, SftStage) else stage.loss_reduction
    weights = sequence_weights([s.loss_tokens for s in sequences], reduction)
    return [
        batch
        for rank in range(ranks)
        for batch in pack(
            sequences,
            weights,
            row_tokens=row_tokens,
            rows_per_batch=rows_per_batch,
            ranks=ranks,
            rank=rank,
            pad_id=0,
            one_per_row=one_per_row,
        )
    ]


def assert_same(got: tuple[float, Gradients, Any], expected: tuple[float, Gradients, Any], relative: float) -> None:
    """Gradients are compared by the norm of their difference, which no near-zero element can dominate."""
    assert got[0] == pytest.approx(expected[0], rel=relative)
    assert dict(got[2]) == pytest.approx(dict(expected[2]), rel=relative)
    for name, gradient in expected[1].items():
        assert float(gradient.norm()) > 0, name
        assert float((got[1][name] - gradient).norm() / gradient.norm()) < relative, name


LAYOUTS: dict[str, dict[str, Any]] = {
    "one row a micro-batch": {"rows_per_batch": 1},
    "all rows in one micro-batch": {"rows_per_batch": 99},
    "one document a row": {"one_per_row": True},
    "one document a micro-batch": {"one_per_row": True, "rows_per_batch": 1},
    "one row": {"row_tokens": 99},
    "two ranks": {"ranks": 2},
    "three ranks, one document a row": {"ranks": 3, "one_per_row": True},
    "more ranks than rows": {"ranks": 9, "rows_per_batch": 1},
}


@pytest.fixture(scope="module")
def model() -> Any:
    return build(llama(), dtype=torch.float64)  # the head computes in float32 whatever the model


@pytest.mark.parametrize("name", STAGES)
def test_the_step_is_the_same_in_every_layout_and_order_and_on_any_number_of_ranks(model: Any, name: str) -> None:
    stage = STAGES[name]
    sequences = sequences_for(model, getattr(stage, "temperature", 1.0))
    policy = LocalPolicy(model)
    expected = run(policy, lay_out(sequences, stage), stage)
    assert expected[2]["tokens"] == sum(completion for _, completion in LENGTHS)
    if isinstance(stage, MopdStage):
        assert 0 < expected[2]["gated"] < expected[2]["tokens"]
    for layout, switches in LAYOUTS.items():
        batches = lay_out(sequences, stage, **switches)
        assert len(batches) % switches.get("ranks", 1) == 0, layout
        assert_same(run(policy, batches, stage), expected, 1e-6)
    for order in (sequences[::-1], sequences[3:] + sequences[:3]):
        assert_same(run(policy, lay_out(order, stage), stage), expected, 1e-6)


@pytest.mark.parametrize("name", ["grpo_token", "mopd_sequence"])
def test_the_step_of_a_recurrent_model_is_the_same_for_any_micro_batches_of_single_documents(name: str) -> None:
    stage = STAGES[name]
    model = build(nemotron_h())
    sequences = sequences_for(model, stage.temperature)
    policy = LocalPolicy(model)
    expected = run(policy, lay_out(sequences, stage, one_per_row=True, rows_per_batch=1), stage)
    for switches in ({"rows_per_batch": 3}, {"ranks": 2}, {"ranks": 9}):
        got = run(policy, lay_out(sequences, stage, one_per_row=True, **switches), stage)
        assert got[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
        for parameter, gradient in expected[1].items():
            difference = float((got[1][parameter] - gradient).norm())
            assert difference < 1e-5 * max(1.0, float(gradient.norm())), parameter


def test_reductions_are_different_losses(model: Any) -> None:
    sequences = sequences_for(model, 1.0)
    policy = LocalPolicy(model)
    for kind in (RlStage, MopdStage):
        by_token, by_sequence = (make(kind, loss_reduction=reduction) for reduction in ("token", "sequence"))
        first = run(policy, lay_out(sequences, by_token), by_token)[0]
        assert first != pytest.approx(run(policy, lay_out(sequences, by_sequence), by_sequence)[0], rel=1e-3)


def test_a_sequence_masked_whole_changes_nothing(model: Any) -> None:
    stage = STAGES["mopd_sequence"]
    sequences = sequences_for(model, 0.7)
    masked = TrainingSequence((1, 2, 3), (0, 0, 0), (0.0,) * 3, advantage=9.0, teacher_log_probs=(0.0,) * 3)
    policy = LocalPolicy(model)
    expected = run(policy, lay_out(sequences, stage), stage)
    assert_same(run(policy, lay_out([*sequences, masked], stage), stage), expected, 1e-6)


def test_the_sft_loss_is_the_mean_cross_entropy_of_the_trained_tokens() -> None:
    # pi = (1/4, 3/4): trained tokens 1, 0, 1 of two documents.
    policy = TablePolicy([0.0, math.log(3.0)])
    sequences = [TrainingSequence((0, 1, 0), (0, 1, 1)), TrainingSequence((0, 0, 1), (0, 0, 1))]
    (batch,) = lay_out(sequences, STAGES["sft"])
    loss, sums = micro_batch_loss(policy, batch, STAGES["sft"])  # type: ignore[arg-type]
    loss.backward()
    by_hand = -(2 * math.log(0.75) + math.log(0.25)) / 3
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-6)
    assert policy.theta.grad.tolist() == pytest.approx([0.25 - 1 / 3, 0.75 - 2 / 3], rel=1e-5)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(sums["entropy"]) == pytest.approx(3 * entropy, rel=1e-6)
    assert (float(sums["tokens"]), float(sums["signal"])) == (3.0, pytest.approx(1.0))


def test_a_stage_without_an_objective_is_refused() -> None:
    (batch,) = lay_out([TrainingSequence((0, 1), (0, 1))], STAGES["sft"])
    with pytest.raises(TypeError, match="object"):
        micro_batch_loss(TablePolicy([0.0, 0.0]), batch, object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="top-k"):
        micro_batch_loss(TablePolicy([0.0, 0.0]), batch, STAGES["mopd_top_k"])  # type: ignore[arg-type]
