"""Token losses and how they are added up over the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch


def sequence_weights(loss_tokens: Sequence[int], reduction: Literal["token", "sequence"]) -> list[float]:
    """What one token of each sequence weighs in the step's loss.

    `token`: every token of the global batch the same, `1 / sum_i |V(y_i)|`. `sequence`: every sequence the same and
    every token of it the same, `1 / (N |V(y_i)|)`. The weights of a step sum to 1 over its tokens whatever the
    packing, the micro-batches and the number of processes, so none of these changes the loss. A sequence without
    loss tokens (filtered as overlong) counts for nothing.
    """
    if reduction == "token":
        total = sum(loss_tokens)
        return [1.0 / total if n else 0.0 for n in loss_tokens]
    kept = sum(1 for n in loss_tokens if n)
    return [1.0 / (kept * n) if n else 0.0 for n in loss_tokens]


def weighted_sum(values: torch.Tensor, token_weight: torch.Tensor) -> torch.Tensor:
    """The share of a micro-batch in a mean over the whole step. Both [B, T]; returns a scalar."""
    return (values * token_weight).sum()


def policy_gradient(log_probs: torch.Tensor, advantages: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """REINFORCE with constant advantages and weights: `-w_t A_t log pi(y_t)`, [B, T]."""
    return -(weights * advantages).detach() * log_probs


def k3_divergence(log_probs: torch.Tensor, reference_log_probs: torch.Tensor) -> torch.Tensor:
    """k3, the estimate of KL(policy || reference) at each sampled token: `e^d - 1 - d`, `d = ref - policy`, [B, T]."""
    gap = reference_log_probs - log_probs
    return gap.exp() - 1 - gap
