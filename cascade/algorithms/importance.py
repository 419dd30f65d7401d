"""Importance weights between the policy that trains and the policy that sampled."""

from __future__ import annotations

from typing import Literal

import torch

from cascade.algorithms.grpo import sequence_mean

ROUNDING = 1e-5  # relative, so that a ratio on the very end of the interval is inside whatever float32 made of it
Rule = Literal["none", "gate", "clamp", "sequence_gate"]


def importance_weights(
    policy_log_probs: torch.Tensor,
    sampler_log_probs: torch.Tensor,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    *,
    rule: Rule,
    low: float,
    high: float,
) -> torch.Tensor:
    """The weight of each token, constant for the gradient.

    With `r_t = pi_train(y_t) / pi_inf(y_t)`:

    - `gate` (Nemotron-Cascade 2, eq. 3): r_t inside [low, high], 0 outside; both ends are kept;
    - `clamp`: r_t limited to [low, high];
    - `sequence_gate`: r_t where the geometric mean of r over the sequence is inside [low, high], 0 elsewhere;
    - `none`: 1.

    Args: all [B, T]; log-probs in nats at the same temperature.

    Returns:
        [B, T] float32, detached, 0 outside the mask.
    """
    log_ratio = (policy_log_probs.detach() - sampler_log_probs) * loss_mask
    ratio = log_ratio.exp()
    if rule == "none":
        weights = torch.ones_like(ratio)
    elif rule == "clamp":
        weights = ratio.clamp(low, high)
    else:
        judged = ratio if rule == "gate" else sequence_mean(log_ratio, loss_mask, sequence_index).exp()
        weights = ratio * ((judged >= low * (1 - ROUNDING)) & (judged <= high * (1 + ROUNDING)))
    return weights * loss_mask


def mismatch(policy_log_probs: torch.Tensor, sampler_log_probs: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Sums over the masked tokens of |log pi_train - log pi_inf| and of k3, the KL(pi_inf || pi_train) estimate; nats.

    Returns:
        [2] float32; divide by the token count.
    """
    gap = (policy_log_probs.detach() - sampler_log_probs) * loss_mask
    return torch.stack([gap.abs().sum(), (gap.exp() - 1 - gap).sum()])
