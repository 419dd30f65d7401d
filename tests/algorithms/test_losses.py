"""How token losses are weighed and added up over the whole step."""

from __future__ import annotations

import math

import pytest
import torch

from cascade.algorithms.losses import k3_divergence, policy_gradient, sequence_weights, weighted_sum


def test_the_token_reduction_weighs_every_token_alike() -> None:
    assert sequence_weights([3, 1, 0, 4], "token") == [1 / 8, 1 / 8, 0.0, 1 / 8]


def test_the_sequence_reduction_weighs_every_sequence_that_has_tokens_alike() -> None:
    assert sequence_weights([3, 1, 0, 4], "sequence") == [1 / 9, 1 / 3, 0.0, 1 / 12]


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_weights_sum_to_one_over_the_tokens_of_a_step(reduction: str) -> None:
    lengths = [5, 17, 0, 1, 300]
    weights = sequence_weights(lengths, reduction)  # type: ignore[arg-type]
    assert math.fsum(n * w for n, w in zip(lengths, weights, strict=True)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_step_without_loss_tokens_weighs_nothing(reduction: str, lengths: list[int]) -> None:
    assert sequence_weights(lengths, reduction) == [0.0] * len(lengths)  # type: ignore[arg-type]


def test_the_weighted_sum_is_the_share_of_a_mean_and_no_mean_itself() -> None:
    values = torch.tensor([[2.0, 4.0], [8.0, 100.0]])
    assert float(weighted_sum(values, torch.tensor([[0.25, 0.25], [0.25, 0.0]]))) == 3.5


def test_policy_gradient_is_minus_weight_times_advantage_and_differentiates_log_probs_only() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[3.0, -0.5]], requires_grad=True)
    weights = torch.tensor([[2.0, 4.0]], requires_grad=True)
    loss = policy_gradient(log_probs, advantages, weights)
    assert loss.tolist() == [[6.0, -4.0]]
    loss.sum().backward()
    assert log_probs.grad.tolist() == [[-6.0, 2.0]]
    assert advantages.grad is None
    assert weights.grad is None


def test_k3_is_zero_at_equality_positive_elsewhere_and_unbiased_for_the_divergence() -> None:
    policy = torch.log_softmax(torch.tensor([0.1, -0.4, 1.2], dtype=torch.float64), -1)
    reference = torch.log_softmax(torch.tensor([0.7, 0.2, -0.3], dtype=torch.float64), -1)
    assert k3_divergence(policy, policy).tolist() == [0.0, 0.0, 0.0]
    estimates = k3_divergence(policy, reference)
    assert bool((estimates > 0).all())
    exact = float((policy.exp() * (policy - reference)).sum())  # KL(policy || reference)
    assert float((policy.exp() * estimates).sum()) == pytest.approx(exact, rel=1e-12)
