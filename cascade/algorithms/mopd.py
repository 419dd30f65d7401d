"""Multi-domain on-policy distillation: who fills the advantages of a MOPD step."""

from __future__ import annotations

import math

import torch

ROUNDING = 1e-5  # nats: what two float32 evaluations of one log-prob can differ by


def distillation_advantages(
    teacher_log_probs: torch.Tensor,
    policy_log_probs: torch.Tensor,
    *,
    teacher_mix: float = 1.0,
    clip: float | None = None,
) -> torch.Tensor:
    """How much more the domain's teacher likes the sampled token than the policy does, in nats.

    Nemotron-Cascade 2, eq. 2: `a_t = log pi_teacher(y_t) - log pi_train(y_t)`, a constant for the gradient.
    A gap below float32 rounding counts as 0: Adam would turn the noise of a teacher that equals the policy into
    full-size drift. With `teacher_mix` alpha < 1 the teacher is `alpha pi_T + (1 - alpha) pi_S`, which bounds a_t from
    below by log(1 - alpha).

    Args: [B, T] log-probs at the same temperature, nats.

    Returns:
        [B, T] float32, detached.
    """
    student = policy_log_probs.detach()
    gap = teacher_log_probs - student
    gap = torch.where(gap.abs() < ROUNDING, torch.zeros_like(gap), gap)
    if teacher_mix < 1.0:
        mixed = torch.logaddexp(math.log(teacher_mix) + gap, torch.full_like(gap, math.log(1.0 - teacher_mix)))
        gap = torch.where(gap == 0, gap, mixed)  # the logarithms of the two shares do not quite add up to 0
    return gap if clip is None else gap.clamp(-clip, clip)


def top_k_divergence(policy_top: torch.Tensor, teacher_top: torch.Tensor) -> torch.Tensor:
    """KL(teacher || policy) over the teacher's k likeliest tokens and one bucket for all others, in nats.

    Without the bucket a truncated KL is no divergence: it can be lowered by moving mass off the support.
    Where all k agree to float32 rounding, value and gradient are exactly 0, as in `distillation_advantages`.

    Args:
        policy_top: [B, T, k] log-probs of the policy at the teacher's tokens, differentiable.
        teacher_top: [B, T, k] log-probs of the teacher at the same tokens.

    Returns:
        [B, T], >= 0, and 0 only where the two agree on every bucket.
    """
    teacher, policy = _with_tail(teacher_top), _with_tail(policy_top)
    same = ((teacher_top - policy_top).abs() < ROUNDING).all(-1)
    return (teacher.exp() * (teacher - policy)).sum(-1).masked_fill(same, 0.0)


def _with_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """[B, T, k] -> [B, T, k+1]: the log of the mass that is left, floored where rounding has eaten it."""
    left = (1.0 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=1e-7)
    return torch.cat([log_probs, left.log()], -1)
