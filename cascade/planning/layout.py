"""Which accelerators train, which sample, which score: read off a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cascade.config import ClusterConfig, MopdStage, Recipe, RlStage, SamplingStage
from cascade.errors import ConfigError


@dataclass(frozen=True)
class Servers:
    """Those of one role: replicas of their own, or a copy in every training process."""

    engine: str
    replicas: int
    tensor_parallel: int
    colocated: bool  # on the accelerators that train
    needed: bool  # by some stage

    @property
    def gpus(self) -> int:
        """Accelerators that this role has to itself."""
        return 0 if self.colocated or not self.needed else self.replicas * self.tensor_parallel


@dataclass(frozen=True)
class Layout:
    """Accelerators by role."""

    training: int  # processes, one accelerator each
    rollout: Servers
    teacher: Servers
    gpus_per_node: int
    nodes: int  # machines that are taken, whole or in part

    @property
    def gpus(self) -> int:
        """Accelerators in use."""
        return self.training + self.rollout.gpus + self.teacher.gpus

    @property
    def training_nodes(self) -> int:
        """Machines that train."""
        return math.ceil(self.training / self.gpus_per_node)


def layout_of(recipe: Recipe, cluster: ClusterConfig) -> Layout:
    """The layout that the recipe's own numbers make."""
    rollout, teacher, launch = rollout_servers(recipe), teacher_servers(recipe), recipe.launch
    apart = [
        (launch.rollout_nodes, rollout.gpus),
        (launch.teacher_nodes, teacher.gpus),
    ]
    beside = sum(gpus for nodes, gpus in apart if not nodes)  # on the first machines, behind the training processes
    own = sum(max(nodes, math.ceil(gpus / cluster.gpus_per_node)) for nodes, gpus in apart if nodes)
    together = math.ceil((launch.world_size + beside) / cluster.gpus_per_node)
    training = max(launch.nodes, math.ceil(launch.processes / cluster.gpus_per_node) * launch.nodes)
    return Layout(launch.world_size, rollout, teacher, cluster.gpus_per_node, max(together, training) + own)


def rollout_servers(recipe: Recipe) -> Servers:
    """What samples."""
    rollout = recipe.rollout
    needed = any(isinstance(stage, SamplingStage) for stage in recipe.stages.values())
    if rollout.engine != "vllm_server":
        return Servers(rollout.engine, recipe.launch.world_size, 1, True, needed)
    replicas = len(rollout.urls) or rollout.replicas
    return Servers(rollout.engine, replicas, rollout.tensor_parallel, rollout.transport == "ipc", needed)


def teacher_servers(recipe: Recipe) -> Servers:
    """What scores teachers and references."""
    teachers = recipe.teachers
    needed = any(scored_by(recipe, name) for name in recipe.stages)
    if teachers.engine == "local":
        return Servers("local", recipe.launch.world_size, 1, True, needed)
    replicas = len(teachers.urls) or teachers.replicas
    return Servers(teachers.engine, replicas, recipe.rollout.tensor_parallel, False, needed)


def scored_by(recipe: Recipe, name: str) -> int:
    """Models that score the rollouts of a stage: teachers, or the parent for its KL term; 0: none."""
    stage = recipe.stages[name]
    if isinstance(stage, MopdStage):
        domains = {recipe.environments[environment].domain for environment in stage.mix}
        named = {stage.teachers.get(domain, "best") for domain in domains}
        unnamed = sum(stage.teachers.get(domain, "best") == "best" for domain in domains)
        return len(named - {"best"}) + unnamed
    return int(isinstance(stage, RlStage) and stage.kl_coef > 0)


def cluster_of(recipe: Recipe) -> ClusterConfig:
    """The machines to plan for. Raises `ConfigError` where the recipe names none."""
    if recipe.cluster is None:
        raise ConfigError(
            "Memory, time and GPUs are planned for a cluster, and none is named.",
            "Add `cluster=h100 cluster.nodes=4`, or a file of your own in conf/cluster.",
        )
    return recipe.cluster
