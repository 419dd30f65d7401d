"""The Bradley-Terry loss of a reward model on preference pairs."""

from __future__ import annotations

import torch


def bradley_terry_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """`-log sigmoid(r_chosen - r_rejected)` of every pair, nats, [N] from rewards [N] each.

    The negative log-likelihood of the preferences when `chosen` wins with the odds exp(r_chosen) : exp(r_rejected)
    (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1). Only differences of rewards enter: their zero is arbitrary.
    """
    return -torch.nn.functional.logsigmoid(chosen - rejected)


def preferred(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """1 where the chosen reward is the higher, 0 where it is the lower, one half where both are equal; [N]."""
    return 0.5 * (1 + torch.sign(chosen - rejected))
