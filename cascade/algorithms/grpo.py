"""Group-relative policy optimisation: who fills the advantages of an RL step, and the off-policy surrogate."""

from __future__ import annotations

from typing import Literal

import torch


def group_advantages(
    rewards: torch.Tensor, *, baseline: Literal["mean", "leave_one_out"] = "mean", scale: bool = True
) -> torch.Tensor:
    """How much better each rollout of a group did than its peers.

    Nemotron-Cascade 2, eq. 1: `A_i = (r_i - mean(r)) / std(r)` with the population standard deviation over the group.
    `leave_one_out` takes mean and std over the other G - 1 rollouts. Where the std is 0 nothing is divided: a group
    of equal rewards has advantages of exactly 0, the odd one out of a leave-one-out group keeps its reward gap.
    `scale=False` never divides (Dr. GRPO).

    Args:
        rewards: [G] float.

    Returns:
        [G] float32.
    """
    rewards = rewards.double()
    if rewards.numel() < 2 or bool((rewards == rewards[0]).all()):
        return torch.zeros(rewards.shape, dtype=torch.float32)
    if baseline == "mean":
        mean = rewards.mean().expand_as(rewards)
        std = rewards.std(correction=0).expand_as(rewards)
    else:
        others = rewards.expand(rewards.numel(), -1)[~torch.eye(rewards.numel(), dtype=torch.bool)]
        others = others.view(rewards.numel(), -1)  # [G, G-1]
        mean, std = others.mean(1), others.std(1, correction=0)
    gap = rewards - mean
    divisor = torch.where(std > 1e-12, std, torch.ones_like(std)) if scale else torch.ones_like(std)
    return (gap / divisor).float()


def clipped_objective(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    loss_mask: torch.Tensor,
    sequence_index: torch.Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    level: Literal["token", "sequence"] = "token",
) -> torch.Tensor:
    """The PPO surrogate of a token, `min(r A, clip(r, 1 - low, 1 + high) A)`, to be maximised.

    `r = pi / pi_old`, per token, or the geometric mean over the sequence (`sequence`: GSPO, eq. 4 of
    arXiv 2507.18071). Where `old_log_probs` is `log_probs.detach()`, r is 1, clipping is inert, and the gradient is
    that of `A log pi`.

    Args: all [B, T]; `sequence_index` as in `PackedBatch`.

    Returns:
        [B, T] float32.
    """
    log_ratio = (log_probs - old_log_probs) * loss_mask
    if level == "sequence":
        # GSPO: the gradient flows through every token of the sequence, scaled as a token's own.
        mean = sequence_mean(log_ratio, loss_mask, sequence_index)
        log_ratio = mean.detach() + log_probs - log_probs.detach()
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return torch.minimum(ratio * advantages, clipped * advantages)


def sequence_mean(values: torch.Tensor, loss_mask: torch.Tensor, sequence_index: torch.Tensor) -> torch.Tensor:
    """The mean of `values` over the masked tokens of each sequence, at every token of that sequence. All [B, T]."""
    index = sequence_index.clamp(min=0).flatten()
    masked = (values * loss_mask).flatten()
    sums = masked.new_zeros(int(index.max()) + 1).index_add(0, index, masked)
    counts = torch.zeros_like(sums).index_add(0, index, loss_mask.flatten().to(masked))
    return (sums / counts.clamp(min=1))[index].view_as(values)
