"""Which accelerators of a cluster train, sample and score where a recipe was written for others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from cascade.config import RewardModelStage, SamplingStage, SftStage
from cascade.planning.case import Case
from cascade.planning.changes import Changes
from cascade.planning.divisibility import why_impossible

STARTS_ELSEWHERE = ("slurm", "kubernetes")
"""Launchers that start servers on machines of their own."""


@dataclass(frozen=True)
class Split:
    """A case whose layout is decided."""

    case: Case
    derived: Changes  # keys that were set to spread it over the cluster; empty: the recipe's own numbers


def decide(case: Case, *, timed: bool = True) -> Split:
    """The recipe's own layout where it is written for this cluster; else the fastest that fits, or nearly fits.

    The recipe's own numbers are kept where a launcher starts its processes and they take all machines of the cluster,
    and no more. `timed=False` asks for any layout that fits, for those who only want to know whether there is one.
    """
    if is_written_for(case):
        return Split(case, {})
    tried = (Split(case.changed(changes), changes) for changes in candidates(case))
    possible = [split for split in tried if why_impossible_split(split.case) is None]
    if not timed:  # memory is the same however many replicas there are
        possible = list({split.case.layout.training: split for split in possible}.values())
    possible = [split for split in possible if split.case.refused() is None]
    if not possible:
        return Split(case, {})
    filled = {id(split): max(split.case.overflow().values()) for split in possible}
    fitting = [split for split in possible if filled[id(split)] <= 1]
    if not fitting:
        return min(possible, key=lambda split: (filled[id(split)], -split.case.layout.training))
    return min(fitting, key=lambda split: split.case.plan().hours) if timed else fitting[0]


def why_impossible_split(case: Case) -> str | None:
    """What the cluster or the model's sizes say against it; quicker to ask than all of the recipe's checks."""
    return why_impossible(case.recipe, case.shape, case.cluster, case.layout)


def is_written_for(case: Case) -> bool:
    """Whether the recipe's own numbers are kept."""
    cluster, layout = case.cluster, case.layout
    if case.recipe.launch.kind == "inline" and cluster.nodes * cluster.gpus_per_node > 1:
        return False
    return case.layout.nodes == cluster.nodes and layout.gpus <= cluster.nodes * cluster.gpus_per_node


def candidates(case: Case) -> Iterator[Changes]:
    """Ways to spread the recipe over all machines of its cluster."""
    for processes in _processes(case):
        yield from _one_machine(case, processes) if case.cluster.nodes == 1 else _machines(case, processes)


def _processes(case: Case) -> list[int]:
    """Training processes of a machine: as many as there are accelerators, or fewer where batches divide by no more."""
    each = case.cluster.gpus_per_node
    return [processes for processes in range(each, 0, -1) if case.cluster.nodes == 1 or each % processes == 0]


def largest_divisor(case: Case) -> int:
    """The most processes that all batches of the recipe divide by, those that share rows counting as one."""
    sizes = []
    for stage in case.recipe.stages.values():
        if isinstance(stage, (SftStage, RewardModelStage)):
            sizes.append(stage.batch_size)
        elif isinstance(stage, SamplingStage):
            sizes.append(stage.prompts_per_step * stage.num_generations)
    return reduce(math.gcd, sizes) * case.recipe.policy.sequence_parallel


def _one_machine(case: Case, processes: int) -> Iterator[Changes]:
    if largest_divisor(case) % processes:
        return
    layout, left = case.layout, case.cluster.gpus_per_node - processes
    changes: dict[str, Any] = {"launch.nodes": 1, "launch.processes": processes}
    if case.recipe.launch.kind == "inline" and case.cluster.gpus_per_node > 1:
        changes["launch.kind"] = "torchrun"  # of one process too: an inline recipe is one that may be spread
    size = layout.rollout.tensor_parallel
    teachers = 0
    if layout.teacher.gpus:
        teachers = max(1, min(layout.teacher.replicas, left // (2 * size) if layout.rollout.gpus else left // size))
        changes["teachers.replicas"] = teachers
    if layout.rollout.gpus:
        replicas = (left - teachers * layout.teacher.tensor_parallel) // size
        if replicas < 1:
            return
        changes["rollout.replicas"] = replicas
    yield changes


def _machines(case: Case, processes: int) -> Iterator[Changes]:
    layout, cluster = case.layout, case.cluster
    divisor = largest_divisor(case)
    apart: dict[str, Any] = {"launch.processes": processes}
    if case.recipe.launch.kind not in STARTS_ELSEWHERE:
        apart["launch.kind"] = "slurm"
    each = cluster.gpus_per_node // layout.rollout.tensor_parallel  # servers of a machine
    roles = [role for role in (layout.rollout, layout.teacher) if role.gpus]
    if roles and not each:
        return
    for training in range(cluster.nodes - len(roles), 0, -1):
        if divisor % (training * processes):
            continue
        changes = {**apart, "launch.nodes": training}
        left = cluster.nodes - training
        if not roles:
            yield changes
            continue
        for scoring in _scoring_machines(left, len(roles), bool(layout.teacher.gpus)):
            yield {**changes, **_servers(case, left - scoring, scoring, each)}


def _scoring_machines(left: int, roles: int, scores: bool) -> list[int]:
    """Machines for teachers, of those that do not train."""
    if not scores:
        return [0]
    return [left] if roles == 1 else sorted({1, max(1, left // 8), max(1, left // 4)})


def _servers(case: Case, sampling: int, scoring: int, each: int) -> Changes:
    changes: dict[str, Any] = {}
    if sampling:
        changes |= {"launch.rollout_nodes": sampling, "rollout.replicas": sampling * each}
        if case.recipe.rollout.transport == "shm":
            changes["rollout.transport"] = "gloo" if case.cluster.gpu.lower().startswith("cpu") else "nccl"
    if scoring:
        changes |= {"launch.teacher_nodes": scoring, "teachers.replicas": scoring * each}
    return changes
