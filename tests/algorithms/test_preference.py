"""The Bradley-Terry loss is the negative log-likelihood of the preferences, whatever the rewards' zero."""

from __future__ import annotations

import math

import pytest
import torch

from cascade.algorithms.preference import bradley_terry_loss, preferred


def test_the_loss_is_minus_the_log_of_the_odds_of_the_chosen() -> None:
    chosen, rejected = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 0.0, 1.0])
    odds = chosen.exp() / (chosen.exp() + rejected.exp())
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), -odds.log())
    assert bradley_terry_loss(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2))


def test_adding_a_constant_to_both_rewards_changes_nothing() -> None:
    chosen, rejected = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected))


def test_large_margins_neither_overflow_nor_lose_their_gradient() -> None:
    chosen = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [500.0, 0.0]
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [-1.0, 0.0]


def test_the_gradient_is_how_wrong_the_pair_is() -> None:
    chosen, rejected = torch.tensor([0.4], requires_grad=True), torch.tensor([0.1])
    bradley_terry_loss(chosen, rejected).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(0.3)))


def test_ties_count_half() -> None:
    assert preferred(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
