"""The numbers of a step, under the names that users of TRL know."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from cascade import parallel
from cascade.algorithms.filtering import has_signal, is_masked
from cascade.types import Group


def of_groups(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards and lengths of everything that was sampled, over all domains and by domain; {} where nothing was."""
    if not groups:  # failures have left no group of two
        return {}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [rollout.sampled_tokens for rollout in rollouts]
    by_domain: dict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        by_domain[rollout.prompt.row.domain].append(rollout.reward)
    rewards = [rollout.reward for rollout in rollouts]
    return {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.fmean(statistics.pstdev([r.reward for r in group.rollouts]) for group in groups),
        "frac_reward_zero_std": statistics.fmean(not has_signal(group) for group in groups),
        "masked_share": statistics.fmean(map(is_masked, rollouts)),
        "completions/mean_length": statistics.fmean(lengths),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": statistics.fmean(rollout.finish_reason == "length" for rollout in rollouts),
        **{f"reward/{domain}": statistics.fmean(values) for domain, values in sorted(by_domain.items())},
    }


def of_staleness(groups: Sequence[Group], version: int) -> dict[str, float]:
    """How many versions before `version` the oldest token of each rollout was sampled."""
    ages = [float(version - rollout.policy_version) for group in groups for rollout in group.rollouts]
    return {"staleness/mean": statistics.fmean(ages), "staleness/max": max(ages)} if ages else {}


def of_drops(dropped: Mapping[str, int]) -> dict[str, float]:
    """Rollouts that did not reach the loss, by reason."""
    return {f"dropped/{reason}": float(count) for reason, count in sorted(dropped.items())}


def reduced(sums: Mapping[str, torch.Tensor], sharing: int = 1) -> dict[str, float]:
    """Sums over micro-batches added up over all ranks. Collective; every rank has the same names.

    Where `sharing` consecutive ranks have the same rows, and so the same sums, those of the first one count.
    """
    names = sorted(sums)
    own = torch.stack([sums[name].double() for name in names])
    totals = parallel.sum_over_ranks(own if parallel.rank() % sharing == 0 else torch.zeros_like(own))
    return dict(zip(names, totals.tolist(), strict=True))


def of_tokens(totals: Mapping[str, float]) -> dict[str, float]:
    """Means over the loss tokens of the whole step; `loss` and `aux_loss` are means already."""
    tokens = max(totals["tokens"], 1.0)
    named = {
        "entropy": "entropy",
        "kl": "kl",
        "reverse_kl": "teacher/reverse_kl",
        "forward_kl": "teacher/forward_kl",
        "advantage": "teacher/advantage_mean",
        "sampler_gap": "sampler/mean_abs_log_prob_gap",
        "sampler_k3": "sampler/k3_kl",
        "gated": "sampler/gated_ratio",
    }
    measured = {new: totals[old] / tokens for old, new in named.items() if old in totals}
    if "aux_loss" in totals:
        measured["aux_loss"] = totals["aux_loss"]
    if "advantage_square" in totals:
        variance = totals["advantage_square"] / tokens - (totals["advantage"] / tokens) ** 2
        measured["teacher/advantage_std"] = max(variance, 0.0) ** 0.5
    return {"loss": totals["loss"], **measured, "tokens": totals["tokens"]}
