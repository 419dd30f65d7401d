"""What each kind of stage minimises on a micro-batch. GRPO and MOPD differ in who fills the advantages."""

from __future__ import annotations

import torch

from cascade.algorithms.grpo import clipped_objective
from cascade.algorithms.importance import importance_weights, mismatch
from cascade.algorithms.losses import k3_divergence, policy_gradient, weighted_sum
from cascade.algorithms.mopd import distillation_advantages, top_k_divergence
from cascade.algorithms.preference import bradley_terry_loss, preferred
from cascade.config import MopdStage, RlStage, SamplingStage, SftStage
from cascade.ports import Policy, RewardModel, Trainee
from cascade.types import PackedBatch

Sums = dict[str, torch.Tensor]
"""Sums over the loss tokens of a micro-batch, to be added over micro-batches and ranks."""


def micro_batch_loss(policy: Policy, batch: PackedBatch, stage: SftStage | SamplingStage) -> tuple[torch.Tensor, Sums]:
    """This micro-batch's share of the step's loss, and sums for the metrics. Runs the policy's forward pass."""
    loss, sums = _objective(policy, batch, stage)
    return _balanced(policy, loss, sums, stage.router_aux_loss_coef)


def _objective(policy: Policy, batch: PackedBatch, stage: SftStage | SamplingStage) -> tuple[torch.Tensor, Sums]:
    if isinstance(stage, SftStage):
        return _sft(policy, batch)
    if isinstance(stage, RlStage):
        return _grpo(policy, batch, stage)
    if isinstance(stage, MopdStage) and stage.top_k:
        return _mopd_top_k(policy, batch, stage)
    if isinstance(stage, MopdStage):
        return _mopd(policy, batch, stage)
    raise TypeError(f"no objective for {type(stage).__name__}")


def pair_loss(model: RewardModel, batch: PackedBatch, balance: float = 0.0) -> tuple[torch.Tensor, Sums]:
    """This micro-batch's share of the Bradley-Terry loss of the step, and its share of the means over pairs.

    Rows 2k and 2k + 1 are the chosen and the rejected side of a pair; `balance` weighs the experts' balance loss. Runs
    the model's forward pass.
    """
    rewards, weights = model.rewards(batch), batch.token_weight.sum(1)[::2]  # [B], [B / 2]
    chosen, rejected = rewards[::2], rewards[1::2]
    loss = (bradley_terry_loss(chosen, rejected) * weights).sum()
    means = {
        "loss": loss,
        "accuracy": (preferred(chosen, rejected) * weights).sum(),
        "margin": ((chosen - rejected) * weights).sum(),
        "mean_reward": (0.5 * (chosen + rejected) * weights).sum(),
    }
    return _balanced(model, loss, {name: value.detach() for name, value in means.items()}, balance)


def _balanced(model: Trainee, loss: torch.Tensor, sums: Sums, coefficient: float) -> tuple[torch.Tensor, Sums]:
    """The loss with the load-balancing losses of all layers, which are no part of the metric `loss`."""
    if not coefficient:
        return loss, sums
    layers = model.balance_losses()  # [L]
    return loss + coefficient * layers.sum(), {**sums, "aux_loss": layers.detach().mean()}


def _sft(policy: Policy, batch: PackedBatch) -> tuple[torch.Tensor, Sums]:
    log_probs, entropy = policy.log_probs(batch)  # [B, T]
    loss = weighted_sum(-log_probs, batch.token_weight)
    return loss, {"signal": batch.token_weight.sum(), **_token_sums(loss, entropy, batch)}


def _grpo(policy: Policy, batch: PackedBatch, stage: RlStage) -> tuple[torch.Tensor, Sums]:
    log_probs, entropy = policy.log_probs(batch, stage.temperature)  # [B, T]
    strict = stage.num_iterations == 1 and not stage.max_staleness  # the current policy is the one that sampled
    objective = clipped_objective(
        log_probs,
        log_probs.detach() if strict else batch.sampler_log_probs,
        batch.advantages,
        batch.loss_mask,
        batch.sequence_index,
        epsilon_low=stage.epsilon_low,
        epsilon_high=stage.epsilon_high,
        level=stage.ratio_level,
    )
    weights = _importance(log_probs, batch, stage)
    token_loss = -weights * objective
    sums: Sums = {"signal": (batch.advantages.abs() * batch.token_weight).sum()}
    if stage.kl_coef:
        divergence = k3_divergence(log_probs, batch.reference_log_probs)
        token_loss = token_loss + stage.kl_coef * divergence
        sums["kl"] = (divergence.detach() * batch.loss_mask).sum()
        sums["signal"] = sums["signal"] + batch.token_weight.sum()
    loss = weighted_sum(token_loss, batch.token_weight)
    return loss, {**sums, **_token_sums(loss, entropy, batch), **_sampler_sums(log_probs, weights, batch)}


def _mopd(policy: Policy, batch: PackedBatch, stage: MopdStage) -> tuple[torch.Tensor, Sums]:
    log_probs, entropy = policy.log_probs(batch, stage.temperature)  # [B, T]
    gaps = distillation_advantages(
        batch.teacher_log_probs, log_probs, teacher_mix=stage.teacher_mix, clip=stage.advantage_clip
    )
    advantages = gaps + stage.outcome_weight * batch.advantages
    weights = _importance(log_probs, batch, stage)
    loss = weighted_sum(policy_gradient(log_probs, advantages, weights), batch.token_weight)
    sums: Sums = {
        "signal": ((weights * advantages).abs() * batch.token_weight).sum(),
        "reverse_kl": ((log_probs.detach() - batch.teacher_log_probs) * batch.loss_mask).sum(),
        "advantage": (advantages * batch.loss_mask).sum(),
        "advantage_square": (advantages.square() * batch.loss_mask).sum(),
    }
    return loss, {**sums, **_token_sums(loss, entropy, batch), **_sampler_sums(log_probs, weights, batch)}


def _mopd_top_k(policy: Policy, batch: PackedBatch, stage: MopdStage) -> tuple[torch.Tensor, Sums]:
    if batch.teacher_top_ids is None or batch.teacher_top_log_probs is None:
        raise TypeError("a top-k objective needs the teacher's top-k")
    candidates = torch.cat([batch.teacher_top_ids, batch.input_ids.unsqueeze(-1)], -1)  # [B, T, K+1]
    both, entropy = policy.log_probs(batch, stage.temperature, candidates)
    at_top, log_probs = both[..., :-1], both[..., -1]
    divergence = top_k_divergence(at_top, batch.teacher_top_log_probs) * batch.loss_mask
    weights = _importance(log_probs, batch, stage)
    loss = weighted_sum(weights * divergence, batch.token_weight)
    sums: Sums = {
        "signal": (weights * divergence.detach() * batch.token_weight).sum(),
        "forward_kl": divergence.detach().sum(),
    }
    return loss, {**sums, **_token_sums(loss, entropy, batch), **_sampler_sums(log_probs, weights, batch)}


def _importance(log_probs: torch.Tensor, batch: PackedBatch, stage: RlStage | MopdStage) -> torch.Tensor:
    return importance_weights(
        log_probs,
        batch.sampler_log_probs,
        batch.loss_mask,
        batch.sequence_index,
        rule=stage.importance,
        low=stage.importance_low,
        high=stage.importance_high,
    )


def _token_sums(loss: torch.Tensor, entropy: torch.Tensor, batch: PackedBatch) -> Sums:
    return {"loss": loss.detach(), "entropy": entropy.sum(), "tokens": batch.loss_mask.sum()}


def _sampler_sums(log_probs: torch.Tensor, weights: torch.Tensor, batch: PackedBatch) -> Sums:
    gap, k3 = mismatch(log_probs, batch.sampler_log_probs, batch.loss_mask)
    gated = ((weights == 0) * batch.loss_mask).sum()
    return {"sampler_gap": gap, "sampler_k3": k3, "gated": gated}
