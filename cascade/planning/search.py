"""The fastest layout of a recipe on a cluster that fits: ZeRO, expert and sequence parallelism, micro-batch, offload,
checkpointing, servers' tensor parallelism, and which accelerators train, sample and score.

Training and sampling are searched apart, since neither needs to know of the other once the accelerators are shared out:
for every number of training processes the fastest policy that fits, for every size of server the fastest replicas. Then
every split is planned as a whole with the best of both, and the fastest of those that fit is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from cascade.planning.case import Case
from cascade.planning.changes import Changes, changed
from cascade.planning.divisibility import training_indivisible
from cascade.planning.roles import stage_policy, stage_roles
from cascade.planning.splits import candidates
from cascade.planning.stage_plan import RecipePlan
from cascade.planning.throughput import training_time
from cascade.sharding_checks import against_expert_parallel

SECONDS = 50.0
"""Of a search; then the best so far is the answer."""

FINALISTS = 4
"""Policies of every number of training processes that are planned as a whole where sampling shares their memory."""


@dataclass(frozen=True)
class Found:
    """The fastest layout that a search found."""

    changes: Changes  # everything that differs from what was asked for
    plan: RecipePlan
    tried: int  # layouts that were planned or found too large
    seconds: float


def search(asked: Case) -> Found | None:
    """The fastest layout that fits, the one asked about included, or None where none of those tried does."""
    started = time.monotonic()
    own = asked.plan()
    best: tuple[float, Changes, RecipePlan] | None = (own.hours, {}, own) if own.fits else None
    tried = 0
    policies: dict[int, list[tuple[float, Changes]]] = {}  # training processes -> (hours of training, policy)
    for base in _servers(asked):
        for split in _splits(asked.changed(base)):
            case = asked.changed({**base, **split})
            ranks = case.layout.training
            if ranks not in policies:
                policies[ranks], number = _policies(case, started)
                tried += number
            for hours, policy in policies[ranks]:
                if best is not None and hours >= best[0] and not _overlaps(asked):
                    break
                changes = {**base, **split, **policy}
                whole = asked.changed(changes)
                tried += 1
                if whole.refused() is not None or max(whole.overflow().values()) > 1:
                    continue
                plan = whole.plan()
                if plan.fits and (best is None or plan.hours < best[0]):
                    best = (plan.hours, changes, plan)
            if time.monotonic() - started > SECONDS:
                break
    if best is None:
        return None
    return Found(_differing(asked, best[1]), best[2], tried, time.monotonic() - started)


def _overlaps(asked: Case) -> bool:
    return any(getattr(stage, "max_staleness", 0) for stage in asked.recipe.stages.values())


def _differing(asked: Case, changes: Changes) -> Changes:
    """Those that are not what the recipe says anyway."""
    return {key: value for key, value in changes.items() if _value(asked.recipe, key) != value}


def _value(holder: Any, key: str) -> Any:
    for part in key.split("."):
        holder = getattr(holder, part)
    return holder


def _servers(asked: Case) -> Iterator[Changes]:
    """Sizes of a rollout server; with an engine inside the training processes there is nothing to choose."""
    if not asked.layout.rollout.gpus:
        yield {}
        return
    for size in (1, 2, 4, 8):
        if size <= asked.cluster.gpus_per_node:
            yield {"rollout.tensor_parallel": size}


def _splits(case: Case) -> list[Changes]:
    """Ways to share out the accelerators; with sequence parallelism more processes can train than batches divide by.

    Of those with as many training processes, the ones on the fewest machines.
    """
    found: dict[str, Changes] = {}
    dense: dict[int, int] = {}
    for shared in (8, 4, 2, 1):
        for split in candidates(case.changed({"policy.sequence_parallel": shared})):
            machines, each = split.get("launch.nodes", 1), split["launch.processes"]
            if dense.setdefault(machines * each, machines) == machines:
                found.setdefault(repr(split), split)
    return list(found.values())


def _policies(case: Case, started: float) -> tuple[list[tuple[float, Changes]], int]:
    """The fastest policies that fit on so many training processes, and how many were tried.

    What saves memory at a cost (checkpointing, offload) is tried where the same layout does not fit without.
    """
    ranks, tried = case.layout.training, 0
    timed: list[tuple[float, Changes]] = []
    for sharding in _shardings(case, ranks):
        for rows in (16, 8, 4, 2, 1):
            for saving in _savings(sharding):
                policy = {**sharding, "policy.rows_per_micro_batch": rows, **saving}
                tried += 1
                if _train_fits(case, policy):
                    timed.append((_training_hours(case, policy), policy))
                    break
            if time.monotonic() - started > SECONDS:
                break
    timed.sort(key=lambda entry: entry[0])
    colocated = case.layout.rollout.colocated or case.layout.teacher.colocated
    return timed[: FINALISTS if colocated else 1], tried


def _shardings(case: Case, ranks: int) -> Iterator[Changes]:
    """ZeRO stage, expert and sequence parallelism that divide and go together."""
    mixtures = case.shape.of_kind("moe")
    sizes = (1, 2, 4, 8, 16, 32, 64) if mixtures else (1,)
    for stage, experts, shared in product((1, 2, 3), sizes, (1, 2, 4, 8)):
        policy = replace(case.recipe.policy, zero_stage=stage, expert_parallel=experts, sequence_parallel=shared)
        policy = replace(policy, offload_optimizer="none", offload_parameters="none", offload_folder=None)
        if against_expert_parallel(policy) or training_indivisible(case.shape, policy, ranks):
            continue
        changes = {"policy.zero_stage": stage, "policy.expert_parallel": experts, "policy.sequence_parallel": shared}
        if not _batches_divide(case, ranks // shared):
            continue
        yield changes


def _batches_divide(case: Case, groups: int) -> bool:
    stages: Sequence[Any] = list(case.recipe.stages.values())
    sizes = [getattr(stage, "batch_size", None) or stage.prompts_per_step * stage.num_generations for stage in stages]
    return all(size % groups == 0 for size in sizes)


def _savings(sharding: Changes) -> Iterator[Changes]:
    """What saves memory, cheapest first."""
    none = {"policy.offload_optimizer": "none", "policy.offload_parameters": "none"}
    yield {"policy.activation_checkpointing": False, **none}
    yield {"policy.activation_checkpointing": True, **none}
    yield {"policy.activation_checkpointing": False, **none, "policy.offload_optimizer": "cpu"}
    yield {"policy.activation_checkpointing": True, **none, "policy.offload_optimizer": "cpu"}
    if sharding["policy.zero_stage"] == 3:
        both = {"policy.offload_optimizer": "cpu", "policy.offload_parameters": "cpu"}
        yield {"policy.activation_checkpointing": True, **both}


def _train_fits(case: Case, policy: Changes) -> bool:
    """Whether every stage's training does; what is colocated with it is counted."""
    recipe, cluster, layout = changed(case.recipe, policy), case.cluster, case.layout
    for name, work in _distinct(case):
        if not all(role.fits for role in stage_roles(recipe, name, case.shape, cluster, layout, work)[:1]):
            return False
    return True


def _distinct(case: Case) -> list[tuple[str, Any]]:
    """Stages of which no two need the same: alike ones are asked about once."""
    seen: dict[str, tuple[str, Any]] = {}
    for name, work in case.works.items():
        stage = case.recipe.stages[name]
        key = f"{stage.kind} {stage.freeze_router} {work.sequences} {work.tokens} {getattr(stage, 'kl_coef', 0)}"
        seen.setdefault(key, (name, work))
    return list(seen.values())


def _training_hours(case: Case, policy: Changes) -> float:
    """Of all stages, training alone."""
    recipe = changed(case.recipe, policy)
    seconds = sum(
        recipe.stages[name].max_steps
        * training_time(case.shape, stage_policy(recipe, name), case.cluster, work, ranks=case.layout.training).total
        for name, work in case.works.items()
    )
    return seconds / 3600
