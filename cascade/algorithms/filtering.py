"""Which rollouts reach the loss. Every drop is counted by its reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from cascade.errors import EngineError
from cascade.types import Group, Rollout


def penalise_overlong(groups: Sequence[Group]) -> list[Group]:
    """Overlong penalty: an unfinished rollout has reward 0 and stays in the loss (Nemotron-Cascade 2, 4.2.2)."""

    def judged(rollout: Rollout) -> Rollout:
        if rollout.finish_reason == "stop" or rollout.score is None:
            return rollout
        score = dataclasses.replace(rollout.score, reward=0.0, parts={**rollout.score.parts, "overlong": 1.0})
        return dataclasses.replace(rollout, score=score)

    return [dataclasses.replace(group, rollouts=tuple(judged(r) for r in group.rollouts)) for group in groups]


def drop_failures(groups: Sequence[Group], dropped: Counter[str]) -> list[Group]:
    """Removes rollouts that could not be scored, and groups of which fewer than two are left.

    Raises `EngineError` with the first failure when nothing could be scored: then the verifier is broken, not the
    answers, and training on would be training on nothing.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    failures = [rollout for rollout in rollouts if rollout.score is None]
    if rollouts and len(failures) == len(rollouts):
        raise EngineError(
            f"None of {len(rollouts)} answers could be scored; the first failure was: {failures[0].failure}",
            "Mend the environment's `score`, or its rows.",
        )
    dropped["failure"] += len(failures)
    kept = []
    for group in groups:
        scored = tuple(rollout for rollout in group.rollouts if rollout.score is not None)
        if len(scored) >= min(2, len(group.rollouts)):
            kept.append(dataclasses.replace(group, rollouts=scored))
        else:
            dropped["group_too_small"] += len(scored)
    return kept


def drop_stale(groups: Sequence[Group], version: int, max_staleness: int, dropped: Counter[str]) -> list[Group]:
    """Removes the groups of which some token was sampled more than `max_staleness` versions before `version`."""
    kept = [g for g in groups if all(version - rollout.policy_version <= max_staleness for rollout in g.rollouts)]
    dropped["stale"] += sum(len(group.rollouts) for group in groups) - sum(len(g.rollouts) for g in kept)
    return kept


def is_masked(rollout: Rollout) -> bool:
    """Whether its verifier keeps it from the gradient; its reward still counts in its group's mean and std.

    So it is with overlong filtering too: a rollout that ended at a limit reads as one of its group, instead of raising
    the share of the group that succeeded. NeMo-RL has both rules (`masked_sample_rewards_in_baseline`).
    """
    return rollout.score is not None and rollout.score.masked


def drop_masked(groups: Sequence[Group], dropped: Counter[str]) -> list[Group]:
    """Counts masked rollouts, which have no loss, and removes the groups that have no others."""
    dropped["masked"] += sum(is_masked(rollout) for group in groups for rollout in group.rollouts)
    return [group for group in groups if not all(map(is_masked, group.rollouts))]


def drop_without_success(groups: Sequence[Group], above: float, dropped: Counter[str]) -> list[Group]:
    """Removes the groups of which no reward is above `above`: prompts that the policy cannot solve yet.

    Nemotron-Cascade 2, 4.8.1, masks them from the loss of agentless repair, with 0.5.
    """
    kept = [group for group in groups if any(rollout.reward > above for rollout in group.rollouts)]
    dropped["no_success"] += sum(len(group.rollouts) for group in groups) - sum(len(g.rollouts) for g in kept)
    return kept


def has_signal(group: Group) -> bool:
    """Whether the rewards of a group differ: a group of equal rewards has nothing to teach."""
    return len({rollout.reward for rollout in group.rollouts}) > 1


def drop_without_signal(groups: Sequence[Group], dropped: Counter[str]) -> list[Group]:
    """Dynamic filtering: keeps the groups whose rewards differ."""
    kept = [group for group in groups if has_signal(group)]
    dropped["zero_signal"] += sum(len(group.rollouts) for group in groups) - sum(len(g.rollouts) for g in kept)
    return kept
