"""On-policy distillation: the gate, the mixing and the gradient by hand, and exact silence where nothing differs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from cascade.algorithms.importance import importance_weights, mismatch
from cascade.algorithms.losses import sequence_weights
from cascade.algorithms.mopd import distillation_advantages, top_k_divergence
from cascade.config import MopdStage
from cascade.data.packing import pack
from cascade.objectives import micro_batch_loss
from cascade.types import PackedBatch, TrainingSequence
from tests.models.tiny import VOCABULARY, LocalPolicy, TablePolicy, build, llama, run


def mopd_stage(**more: object) -> MopdStage:
    return MopdStage(mix={"addition": 1.0}, max_steps=1, learning_rate=1.0, **more)  # type: ignore[arg-type]


def pack_all(
    sequences: list[TrainingSequence], reduction: str = "sequence", one_per_row: bool = False
) -> list[PackedBatch]:
    weights = sequence_weights([s.loss_tokens for s in sequences], reduction)  # type: ignore[arg-type]
    return pack(sequences, weights, row_tokens=40, rows_per_batch=2, ranks=1, rank=0, pad_id=0, one_per_row=one_per_row)


def weights_of(ratios: list[float], rule: str, base: float = 0.0, **more: object) -> list[float]:
    """Weights of one sequence whose tokens have these ratios, the sampler's log-probs all being `base`."""
    sampler = torch.full((1, len(ratios)), base)
    policy = sampler + torch.tensor([ratios]).log()
    index = more.pop("index", torch.zeros(1, len(ratios), dtype=torch.int64))
    mask = more.pop("mask", torch.ones(1, len(ratios)))
    got = importance_weights(policy, sampler, mask, index, rule=rule, low=0.5, high=2.0)  # type: ignore[arg-type]
    return got[0].tolist()


# Importance weights


@pytest.mark.parametrize("base", [0.0, -0.7, -3.3, -10.1])
def test_the_gate_zeroes_what_is_outside_and_keeps_both_ends(base: float) -> None:
    got = weights_of([0.49, 0.5, 0.8, 1.0, 1.9, 2.0, 2.01], "gate", base)
    assert got == pytest.approx([0.0, 0.5, 0.8, 1.0, 1.9, 2.0, 0.0], rel=1e-5)


def test_the_clamp_limits_and_keeps_every_token() -> None:
    got = weights_of([0.1, 0.5, 1.3, 2.0, 40.0], "clamp")
    assert got == pytest.approx([0.5, 0.5, 1.3, 2.0, 2.0], rel=1e-6)


def test_the_sequence_gate_judges_the_geometric_mean() -> None:
    # Sequence 0: ratios 4 and 1/2, geometric mean sqrt(2): kept whole. Sequence 1: 4 and 1.5, sqrt(6) > 2: dropped.
    index = torch.tensor([[0, 0, 1, 1]])
    got = weights_of([4.0, 0.5, 4.0, 1.5], "sequence_gate", index=index)
    assert got == pytest.approx([4.0, 0.5, 0.0, 0.0], rel=1e-6)


def test_no_rule_weighs_every_masked_token_one() -> None:
    assert weights_of([0.1, 9.0, 3.0], "none", mask=torch.tensor([[1.0, 0.0, 1.0]])) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("rule", ["none", "gate", "clamp", "sequence_gate"])
def test_weights_carry_no_gradient_and_vanish_outside_the_mask(rule: str) -> None:
    policy = torch.tensor([[-1.0, -2.0, -50.0]], requires_grad=True)
    sampler, mask = torch.tensor([[-1.2, -2.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    got = importance_weights(
        policy,
        sampler,
        mask,
        torch.zeros(1, 3, dtype=torch.int64),
        rule=rule,  # type: ignore[arg-type]
        low=0.5,
        high=2.0,
    )
    assert not got.requires_grad
    expected = 1.0 if rule == "none" else math.exp(0.2)
    assert got[0].tolist() == pytest.approx([expected, 0.0, 0.0], rel=1e-6)


def test_mismatch_sums_the_gap_and_k3_over_the_mask() -> None:
    gap, k3 = mismatch(
        torch.tensor([[-1.0, -2.0, -5.0]]), torch.tensor([[-1.5, -1.8, -1.0]]), torch.tensor([[1, 1, 0]])
    )
    assert float(gap) == pytest.approx(0.7, rel=1e-6)
    assert float(k3) == pytest.approx((math.exp(0.5) - 1.5) + (math.exp(-0.2) - 0.8), rel=1e-5)


# Advantages


def test_the_advantage_is_the_log_ratio_of_teacher_and_policy() -> None:
    policy = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    got = distillation_advantages(torch.tensor([[-2.5, -0.25]]), policy)
    assert got.tolist() == [[-1.5, 2.75]]
    assert not got.requires_grad


def test_a_gap_of_rounding_size_counts_as_nothing() -> None:
    got = distillation_advantages(torch.tensor([[-1.000002, -1.0001]]), torch.tensor([[-1.0, -1.0]]))
    assert float(got[0, 0]) == 0.0
    assert float(got[0, 1]) == pytest.approx(-1e-4, rel=1e-2)


def test_teacher_mix_is_the_log_ratio_of_the_mixed_probabilities() -> None:
    teacher, policy = [0.6, 0.01, 1e-30], [0.2, 0.5, 0.9]
    got = distillation_advantages(torch.tensor([teacher]).log(), torch.tensor([policy]).log(), teacher_mix=0.7)
    by_hand = [math.log(0.7 * t + 0.3 * s) - math.log(s) for t, s in zip(teacher, policy, strict=True)]
    assert got[0].tolist() == pytest.approx(by_hand, rel=1e-5)
    assert by_hand[2] == pytest.approx(math.log(0.3), rel=1e-9)  # the bound


@pytest.mark.parametrize("mix", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_teacher_that_equals_the_policy_has_advantages_of_exactly_zero_at_every_mix(mix: float) -> None:
    same = torch.linspace(-12.0, -0.01, 50).unsqueeze(0)
    assert bool((distillation_advantages(same, same, teacher_mix=mix) == 0).all())


def test_advantage_clip_limits_both_sides() -> None:
    got = distillation_advantages(torch.tensor([[-9.0, -1.0, -1.0]]), torch.tensor([[-1.0, -9.0, -1.5]]), clip=2.0)
    assert got.tolist() == [[-2.0, 2.0, 0.5]]


# The loss


def two_sequences() -> list[TrainingSequence]:
    return [
        TrainingSequence(
            (0, 1, 1, 0),
            (0, 1, 1, 1),
            sampler_log_probs=(0.0, math.log(0.4), math.log(0.1), math.log(0.6)),
            advantage=0.8,
            teacher_log_probs=(0.0, math.log(0.9), math.log(0.9), math.log(0.1)),
        ),
        TrainingSequence(
            (1, 0),
            (0, 1),
            sampler_log_probs=(0.0, math.log(0.5)),
            advantage=-0.6,
            teacher_log_probs=(0.0, math.log(0.2)),
        ),
    ]


@pytest.mark.parametrize("outcome_weight", [0.0, 0.5])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_loss_and_gradient_are_the_papers_formula_by_hand(reduction: str, outcome_weight: float) -> None:
    # L = -mean_y 1/|V(y)| sum_t w_t a_t log pi(y_t); d log pi(y)/d theta_1 = [y = 1] - pi_1.
    policy = TablePolicy([0.1, -0.4])
    stage = mopd_stage(loss_reduction=reduction, outcome_weight=outcome_weight)
    (batch,) = pack_all(two_sequences(), reduction)
    loss, sums = micro_batch_loss(policy, batch, stage)  # type: ignore[arg-type]
    loss.backward()

    pi_1 = 1 / (1 + math.exp(0.5))
    pi = (1 - pi_1, pi_1)
    expected_loss = expected_slope = 0.0
    gated = 0
    for tokens, sampler, teacher, outcome in (
        ((1, 1, 0), (0.4, 0.1, 0.6), (0.9, 0.9, 0.1), 0.8),
        ((0,), (0.5,), (0.2,), -0.6),
    ):
        share = 1 / (2 * len(tokens)) if reduction == "sequence" else 1 / 4
        for y, inf, good in zip(tokens, sampler, teacher, strict=True):
            ratio = pi[y] / inf
            weight = ratio if 0.5 <= ratio <= 2.0 else 0.0
            gated += weight == 0.0
            advantage = math.log(good / pi[y]) + outcome_weight * outcome
            expected_loss -= share * weight * advantage * math.log(pi[y])
            expected_slope -= share * weight * advantage * ((y == 1) - pi_1)
    assert gated == 1  # 0.378 / 0.1
    assert float(sums["gated"]) == 1.0
    assert float(loss.detach()) == pytest.approx(expected_loss, rel=1e-6)
    assert policy.theta.grad.tolist() == pytest.approx([-expected_slope, expected_slope], rel=1e-6)


def sampled_sequences(generator: torch.Generator) -> list[TrainingSequence]:
    sequences = []
    for prompt, completion in ((3, 9), (5, 4), (2, 1), (7, 13), (1, 6)):
        tokens = torch.randint(0, VOCABULARY, (prompt + completion,), generator=generator).tolist()
        sequences.append(TrainingSequence(tuple(tokens), (0,) * prompt + (1,) * completion))
    return sequences


def with_teacher(sequences: list[TrainingSequence], teacher: LocalPolicy, top_k: int | None) -> list[TrainingSequence]:
    """Scored one document a row, so that rounding differs from that of the packed student."""
    scored = []
    for sequence in sequences:
        (batch,) = pack_all([sequence], one_per_row=True)
        with torch.no_grad():
            values = tuple(teacher.log_probs(batch)[0][0].tolist())
            hidden = teacher.module.hidden_states(batch.input_ids, batch.position_ids)[:, :-1]
            chosen = hidden[batch.loss_mask[:, 1:].bool()]
            top = teacher.module.head.top_k(chosen, top_k, 1.0) if top_k else None
        scored.append(
            dataclasses.replace(sequence, sampler_log_probs=values, teacher_log_probs=values, teacher_top=top)
        )
    return scored


@pytest.mark.parametrize("switches", [{}, {"teacher_mix": 0.3}, {"loss_reduction": "token", "importance": "clamp"}])
def test_a_teacher_that_equals_the_student_moves_nothing_at_all(switches: dict[str, object]) -> None:
    policy = LocalPolicy(build(llama()))
    sequences = with_teacher(sampled_sequences(torch.Generator().manual_seed(0)), policy, None)
    loss, gradients, sums = run(policy, pack_all(sequences), mopd_stage(**switches))
    assert (loss, sums["signal"]) == (0.0, 0.0)
    assert all(bool((gradient == 0).all()) for gradient in gradients.values())
    other = with_teacher(sequences, LocalPolicy(build(llama(), seed=1)), None)  # and another teacher does
    assert run(policy, pack_all(other), mopd_stage(**switches))[2]["signal"] > 0.01


@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_a_teacher_that_equals_the_student_moves_nothing_with_top_k(k: int) -> None:
    policy = LocalPolicy(build(llama()))
    sequences = with_teacher(sampled_sequences(torch.Generator().manual_seed(0)), policy, k)
    loss, gradients, sums = run(policy, pack_all(sequences), mopd_stage(top_k=k))
    assert (loss, sums["signal"]) == (0.0, 0.0)
    assert all(bool((gradient == 0).all()) for gradient in gradients.values())


# Top-k


def random_log_probs(vocabulary: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(3, 5, vocabulary, generator=generator, dtype=torch.float64), -1)


def test_top_k_is_the_full_divergence_when_one_token_is_left_for_the_tail() -> None:
    teacher, policy = random_log_probs(8, 0), random_log_probs(8, 1)
    top, ids = teacher.topk(7, -1)
    full = (teacher.exp() * (teacher - policy)).sum(-1)
    torch.testing.assert_close(top_k_divergence(policy.gather(-1, ids), top), full, rtol=1e-9, atol=1e-9)


def test_top_k_by_hand() -> None:
    # Teacher (0.5, 0.3 | 0.2), policy (0.25, 0.25 | 0.5).
    got = top_k_divergence(torch.tensor([[[0.25, 0.25]]]).log(), torch.tensor([[[0.5, 0.3]]]).log())
    by_hand = 0.5 * math.log(2.0) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)
    assert float(got) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_is_positive_unless_the_two_agree_and_never_above_the_full_divergence(k: int) -> None:
    teacher, policy = random_log_probs(8, 0), random_log_probs(8, 1)
    top, ids = teacher.topk(k, -1)
    got = top_k_divergence(policy.gather(-1, ids), top)
    full = (teacher.exp() * (teacher - policy)).sum(-1)
    assert bool((got > 0).all())
    assert bool((got <= full + 1e-9).all())  # merging tokens into a bucket loses information
    assert bool((top_k_divergence(top, top) == 0).all())


def test_the_tail_bucket_punishes_mass_that_leaves_the_support() -> None:
    teacher = torch.tensor([[[0.6, 0.3]]]).log()
    agreeing = top_k_divergence(torch.tensor([[[0.6, 0.3]]]).log(), teacher)
    halved = top_k_divergence(torch.tensor([[[0.3, 0.15]]]).log(), teacher)
    assert float(agreeing) == 0.0
    assert float(halved) == pytest.approx(0.9 * math.log(2.0) + 0.1 * math.log(0.1 / 0.55), rel=1e-4)


def test_the_top_k_gradient_is_the_difference_of_the_distributions() -> None:
    # Full support: d KL(p || softmax(theta))/d theta = softmax(theta) - p, times the ratio gate's weight (here 1).
    policy = TablePolicy([0.3, -0.2, 0.9])
    pi = torch.softmax(policy.theta.detach(), -1)
    teacher = torch.tensor([0.5, 0.2, 0.3])
    sequence = TrainingSequence(
        (0, 2),
        (0, 1),
        sampler_log_probs=(0.0, float(pi[2].log())),
        teacher_top=(torch.tensor([[0, 2]]), teacher[[0, 2]].log().unsqueeze(0)),
    )
    (batch,) = pack_all([sequence])
    loss, sums = micro_batch_loss(policy, batch, mopd_stage(top_k=2))  # type: ignore[arg-type]
    loss.backward()
    divergence = float((teacher.double() * (teacher.double().log() - pi.log())).sum())
    assert float(loss.detach()) == pytest.approx(divergence, rel=1e-5)
    assert float(sums["forward_kl"]) == pytest.approx(divergence, rel=1e-5)
    torch.testing.assert_close(policy.theta.grad, pi - teacher.double(), rtol=1e-5, atol=1e-6)
