"""Group-relative policy optimisation against numbers and gradients worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cascade.algorithms.grpo import clipped_objective, group_advantages, sequence_mean
from cascade.algorithms.losses import sequence_weights
from cascade.config import RlStage
from cascade.data.packing import pack
from cascade.objectives import micro_batch_loss
from cascade.types import PackedBatch, TrainingSequence
from tests.models.tiny import TablePolicy


def rl_stage(**more: object) -> RlStage:
    return RlStage(mix={"addition": 1.0}, max_steps=1, learning_rate=1.0, **more)  # type: ignore[arg-type]


def pack_one(sequences: list[TrainingSequence], reduction: str = "token") -> PackedBatch:
    weights = sequence_weights([s.loss_tokens for s in sequences], reduction)  # type: ignore[arg-type]
    (batch,) = pack(sequences, weights, row_tokens=64, rows_per_batch=8, ranks=1, rank=0, pad_id=0, one_per_row=False)
    return batch


# Advantages


def test_advantages_are_gaps_over_the_population_standard_deviation() -> None:
    # Rewards 1, 0, 0, 1: mean 1/2, population variance 1/4.
    assert group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == [1.0, -1.0, -1.0, 1.0]
    # Rewards 1, 0, 0, 0: mean 1/4, population variance 3/16, so 3/4 / (sqrt(3)/4) = sqrt(3).
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
    assert got == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3], rel=1e-6)


def test_leave_one_out_compares_each_reward_with_its_peers_only() -> None:
    # Peers of 3 are 0, 1: mean 1/2, std 1/2 -> 5. Of 0: 3, 1: mean 2, std 1 -> -2. Of 1: 3, 0: mean 3/2, std 3/2.
    got = group_advantages(torch.tensor([3.0, 0.0, 1.0]), baseline="leave_one_out").tolist()
    assert got == pytest.approx([5.0, -2.0, -1 / 3], rel=1e-6)


def test_the_odd_one_out_keeps_its_raw_gap_where_its_peers_are_equal() -> None:
    # Peers of 1 are 0, 0, 0: std 0, gap 1. Peers of a 0 are 1, 0, 0: mean 1/3, std sqrt(2)/3 -> -1/sqrt(2).
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), baseline="leave_one_out").tolist()
    assert got == pytest.approx([1.0, *[-1 / math.sqrt(2)] * 3], rel=1e-6)
    assert group_advantages(torch.tensor([0.25, 0.75]), baseline="leave_one_out").tolist() == [-0.5, 0.5]


def test_without_scaling_advantages_are_plain_gaps() -> None:
    assert group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), scale=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    got = group_advantages(torch.tensor([3.0, 0.0, 1.0]), baseline="leave_one_out", scale=False).tolist()
    assert got == [2.5, -2.0, -0.5]


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, 1e6 / 3])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_group_of_equal_rewards_has_advantages_of_exactly_zero(
    baseline: str, scale: bool, reward: float, size: int
) -> None:
    got = group_advantages(torch.full((size,), reward), baseline=baseline, scale=scale)  # type: ignore[arg-type]
    assert got.dtype == torch.float32
    assert got.tolist() == [0.0] * size


# The gradient


def test_the_gradient_of_a_two_token_policy_is_the_hand_derived_one() -> None:
    # L = -(1/N) sum_t A_t log pi(y_t), and d log pi(y)/d theta_1 = [y = 1] - pi_1 = -d log pi(y)/d theta_0.
    first = TrainingSequence((0, 1, 1, 0), (0, 1, 1, 1), (0.0, -0.1, -0.1, -0.1), advantage=1.5)
    second = TrainingSequence((0, 0), (0, 1), (0.0, -0.1), advantage=-0.5)
    policy = TablePolicy([0.2, -0.7])
    loss, _ = micro_batch_loss(policy, pack_one([first, second]), rl_stage())  # type: ignore[arg-type]
    loss.backward()
    pi_1 = 1 / (1 + math.exp(0.2 + 0.7))
    by_hand = -(1.5 * ((1 - pi_1) + (1 - pi_1) - pi_1) - 0.5 * -pi_1) / 4
    assert policy.theta.grad.tolist() == pytest.approx([-by_hand, by_hand], rel=1e-6)


def test_the_sequence_reduction_gives_every_sequence_the_same_share() -> None:
    first = TrainingSequence((0, 1, 1, 0), (0, 1, 1, 1), (0.0, -0.1, -0.1, -0.1), advantage=1.5)
    second = TrainingSequence((0, 0), (0, 1), (0.0, -0.1), advantage=-0.5)
    policy = TablePolicy([0.2, -0.7])
    batch = pack_one([first, second], "sequence")
    loss, _ = micro_batch_loss(policy, batch, rl_stage(loss_reduction="sequence"))  # type: ignore[arg-type]
    loss.backward()
    pi_1 = 1 / (1 + math.exp(0.2 + 0.7))
    by_hand = -(1.5 * ((1 - pi_1) + (1 - pi_1) - pi_1) / 3 - 0.5 * -pi_1) / 2
    assert policy.theta.grad.tolist() == pytest.approx([-by_hand, by_hand], rel=1e-6)


def test_temperature_scales_the_policy_that_is_trained() -> None:
    # softmax(theta / 0.5): d log pi(1)/d theta_1 = (1 - pi_1) / 0.5.
    policy = TablePolicy([0.0, 0.3])
    batch = pack_one([TrainingSequence((0, 1), (0, 1), (0.0, -0.1), advantage=2.0)])
    loss, _ = micro_batch_loss(policy, batch, rl_stage(temperature=0.5))  # type: ignore[arg-type]
    loss.backward()
    pi_1 = 1 / (1 + math.exp(-0.6))
    assert float(policy.theta.grad[1]) == pytest.approx(-2.0 * (1 - pi_1) / 0.5, rel=1e-6)


@pytest.mark.parametrize(("rule", "weight"), [("none", 1.0), ("clamp", 2.0), ("gate", 0.0)])
def test_the_sampler_correction_weighs_the_gradient_of_a_token(rule: str, weight: float) -> None:
    # pi(1) = 1/2, the sampler's 1/5: ratio 5/2, outside [0.5, 2].
    policy = TablePolicy([0.0, 0.0])
    batch = pack_one([TrainingSequence((0, 1), (0, 1), (0.0, math.log(0.2)), advantage=3.0)])
    loss, sums = micro_batch_loss(policy, batch, rl_stage(importance=rule))  # type: ignore[arg-type]
    loss.backward()
    assert float(policy.theta.grad[1]) == pytest.approx(-weight * 3.0 * 0.5, rel=1e-6)
    assert float(sums["gated"]) == (weight == 0.0)


def test_the_kl_term_adds_k3_and_its_gradient() -> None:
    # k3 = e^d - 1 - d with d = ref - log pi; dk3/d log pi = 1 - e^d.
    policy = TablePolicy([0.0, 0.3])
    sequence = TrainingSequence((0, 1), (0, 1), (0.0, -0.1), reference_log_probs=(0.0, -1.2))
    loss, sums = micro_batch_loss(policy, pack_one([sequence]), rl_stage(kl_coef=0.25))  # type: ignore[arg-type]
    loss.backward()
    pi_1 = 1 / (1 + math.exp(-0.3))
    gap = -1.2 - math.log(pi_1)
    assert float(loss.detach()) == pytest.approx(0.25 * (math.exp(gap) - 1 - gap), rel=1e-6)
    assert float(sums["kl"]) == pytest.approx(math.exp(gap) - 1 - gap, rel=1e-6)
    assert float(policy.theta.grad[1]) == pytest.approx(0.25 * (1 - math.exp(gap)) * (1 - pi_1), rel=1e-6)


def test_advantages_of_zero_move_nothing_and_report_no_signal() -> None:
    policy = TablePolicy([0.0, 0.3])
    batch = pack_one([TrainingSequence((0, 1, 0), (0, 1, 1), (0.0, -0.1, -0.4))])
    loss, sums = micro_batch_loss(policy, batch, rl_stage())  # type: ignore[arg-type]
    loss.backward()
    assert (float(loss.detach()), float(sums["signal"]), policy.theta.grad.tolist()) == (0.0, 0.0, [0.0, 0.0])


# Clipping


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.5, 2.0, 1.28 * 2.0, 0.0),  # already far more likely: no more reward for it
        (1.5, -2.0, 1.5 * -2.0, 1.5 * -2.0),  # more likely and bad: full push back
        (0.5, 2.0, 0.5 * 2.0, 0.5 * 2.0),  # less likely and good: full pull
        (0.5, -2.0, 0.8 * -2.0, 0.0),  # already far less likely: no more punishment
        (1.25, 2.0, 1.25 * 2.0, 1.25 * 2.0),  # inside [0.8, 1.28]: the plain ratio
        (0.85, -2.0, 0.85 * -2.0, 0.85 * -2.0),
    ],
)
def test_clipping_stops_only_what_would_go_further_the_same_way(
    ratio: float, advantage: float, objective: float, slope: float
) -> None:
    log_probs = torch.tensor([[-1.0 + math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    got = clipped_objective(
        log_probs,
        torch.tensor([[-1.0]], dtype=torch.float64),
        torch.tensor([[advantage]], dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        torch.zeros(1, 1, dtype=torch.int64),
        epsilon_low=0.2,
        epsilon_high=0.28,
    )
    got.backward()
    assert float(got.detach()) == pytest.approx(objective, rel=1e-9)
    assert float(log_probs.grad) == pytest.approx(slope, rel=1e-9)  # dr/d log pi = r


@pytest.mark.parametrize("off_policy", ({"num_iterations": 2}, {"max_staleness": 1}))
def test_an_update_off_the_policy_is_clipped_against_the_one_that_sampled(off_policy: dict[str, int]) -> None:
    # Old log-prob of token 1: log 0.3; now 0.5: ratio 5/3 above 1.28, advantage positive: no gradient, loss -1.28 A.
    policy = TablePolicy([0.0, 0.0])
    batch = pack_one([TrainingSequence((0, 1), (0, 1), (0.0, math.log(0.3)), advantage=2.0)])
    loss, _ = micro_batch_loss(policy, batch, rl_stage(**off_policy))  # type: ignore[arg-type]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-1.28 * 2.0, rel=1e-6)
    assert policy.theta.grad.tolist() == [0.0, 0.0]


# GSPO


def test_the_sequence_ratio_is_the_geometric_mean_of_its_tokens() -> None:
    # Two documents in one row and padding. First: log ratios 0.1, 0.3 -> mean 0.2; second: -0.5 -> exp(-0.5), A < 0.
    new = torch.tensor([[-9.0, -1.0, -2.0, -9.0, -1.5, -9.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-7.0, -1.1, -2.3, -7.0, -1.0, -7.0]], dtype=torch.float64)
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    index = torch.tensor([[0, 0, 0, 1, 1, -1]])
    advantages = torch.tensor([[0.0, 2.0, 2.0, 0.0, -3.0, 0.0]], dtype=torch.float64)
    got = clipped_objective(new, old, advantages, mask, index, epsilon_low=0.2, epsilon_high=0.28, level="sequence")
    (got * mask).sum().backward()
    first = math.exp(0.2)
    assert got[0, 1:3].tolist() == pytest.approx([first * 2.0] * 2, rel=1e-9)
    assert float(got[0, 4].detach()) == pytest.approx(0.8 * -3.0, rel=1e-9)  # exp(-0.5) is below 0.8 and A < 0: clipped
    # sum_t r A over the sequence: d/d log pi_u = |y| A r / |y| = r A at every token of the sequence.
    assert new.grad[0].tolist() == pytest.approx([0.0, first * 2.0, first * 2.0, 0.0, 0.0, 0.0], rel=1e-9)


def test_sequence_means_skip_masked_tokens_and_padding() -> None:
    values = torch.tensor([[5.0, 1.0, 3.0, 7.0], [2.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    index = torch.tensor([[0, 0, 0, 2], [1, 1, -1, -1]])
    got = sequence_mean(values, mask, index)
    assert got[index >= 0].tolist() == [2.0, 2.0, 2.0, 7.0, 2.0, 2.0]
