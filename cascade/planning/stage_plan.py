"""The plan of every stage on a cluster: memory by role, operations, seconds a step, hours and cost. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.config import ClusterConfig, Recipe, RewardModelStage, RlStage, SamplingStage
from cascade.planning.flops import forward_flops, training_flops
from cascade.planning.generation import GenerationTime, decoder, generation_time
from cascade.planning.layout import Layout, scored_by
from cascade.planning.roles import Role, sequences_at_once, stage_policy, stage_roles
from cascade.planning.shapes import ModelShape
from cascade.planning.throughput import (
    TrainingTime,
    publishing_seconds,
    scoring_seconds,
    training_time,
    verification_seconds,
)
from cascade.planning.workload import StageWork

PARTS = ("generation", "scoring", "verification", "training", "publishing")
"""Of a step's time."""


@dataclass(frozen=True)
class Seconds:
    """One step, by part. With rollouts ahead of training the parts overlap, and `total` is less than their sum."""

    generation: float
    scoring: float
    verification: float
    training: float
    publishing: float
    overlapped: bool

    @property
    def total(self) -> float:
        """From one step to the next.

        Rollouts ahead of training (`max_staleness`) are sampled and judged while the step before scores and trains;
        the longer of the two counts, and publishing holds up both.
        """
        sampled = self.generation + self.verification
        trained = self.scoring + self.training
        return (max(sampled, trained) if self.overlapped else sampled + trained) + self.publishing


@dataclass(frozen=True)
class StagePlan:
    """One stage on the cluster."""

    name: str
    kind: str
    steps: int
    gpus: int
    work: StageWork
    roles: Sequence[Role]
    flops: Mapping[str, float]  # of a step, over all accelerators
    seconds: Seconds
    training: TrainingTime
    generation: GenerationTime | None

    @property
    def fits(self) -> bool:
        """Whether every role has room."""
        return all(role.fits for role in self.roles)

    @property
    def hours(self) -> float:
        """Of all steps; starting, evaluating, saving and exporting not counted."""
        return self.steps * self.seconds.total / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of all accelerators in use, whether they compute or wait."""
        return self.hours * self.gpus


@dataclass(frozen=True)
class RecipePlan:
    """A whole recipe on a cluster."""

    recipe: Recipe
    shape: ModelShape
    cluster: ClusterConfig
    layout: Layout
    stages: Sequence[StagePlan]
    refused: str | None = None  # why it cannot run at all: too few accelerators, numbers that do not divide

    @property
    def fits(self) -> bool:
        """Whether every stage does, and the cluster has the accelerators."""
        return self.refused is None and all(stage.fits for stage in self.stages)

    @property
    def hours(self) -> float:
        """Of all stages, one after the other."""
        return sum(stage.hours for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """Of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)

    @property
    def cost_usd(self) -> float | None:
        """None where the cluster has no price."""
        price = self.cluster.price_per_gpu_hour
        return self.gpu_hours * price if price else None


def stage_plan(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> StagePlan:
    """The plan of one stage, as the recipe's numbers are."""
    stage = recipe.stages[name]
    trained = _training(recipe, name, shape, cluster, layout, work)
    sampled = _generation(recipe, name, shape, cluster, layout, work)
    iterations = stage.num_iterations if isinstance(stage, SamplingStage) else 1
    seconds = Seconds(
        generation=sampled.total if sampled else 0.0,
        scoring=_scoring(recipe, name, shape, cluster, layout, work),
        verification=_verification(recipe, cluster, layout, work, sampled),
        training=iterations * trained.total,
        publishing=_publishing(recipe, shape, cluster, layout) if sampled else 0.0,
        overlapped=isinstance(stage, SamplingStage) and stage.max_staleness > 0 and not layout.rollout.colocated,
    )
    roles = stage_roles(recipe, name, shape, cluster, layout, work)
    flops = _flops(recipe, name, shape, work, iterations)
    return StagePlan(name, stage.kind, stage.max_steps, layout.gpus, work, roles, flops, seconds, trained, sampled)


def _training(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> TrainingTime:
    return training_time(shape, stage_policy(recipe, name), cluster, work, ranks=layout.training)


def _generation(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> GenerationTime | None:
    if not isinstance(recipe.stages[name], SamplingStage):
        return None
    replica = decoder(shape, recipe.rollout, cluster, recipe.policy.dtype)
    room = sequences_at_once(recipe, shape, cluster, layout, work)
    return generation_time(replica, work.answers, replicas=layout.rollout.replicas, room=room, prompts=work.prompts)


def _scoring(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> float:
    """Every answer is scored by one teacher or reference; a reward model reads each once, in training processes."""
    stage, seconds = recipe.stages[name], 0.0
    if scored_by(recipe, name):
        seconds += scoring_seconds(
            shape,
            recipe.policy,
            cluster,
            work,
            processes=layout.teacher.replicas,
            tensor_parallel=layout.teacher.tensor_parallel,
        )
    if isinstance(stage, RlStage) and stage.reward_model:
        seconds += scoring_seconds(shape, recipe.policy, cluster, work, processes=layout.training)
    return seconds


def _verification(
    recipe: Recipe, cluster: ClusterConfig, layout: Layout, work: StageWork, sampled: GenerationTime | None
) -> float:
    if sampled is None:
        return 0.0
    return verification_seconds(work.answers, verifier_workers(recipe, cluster, layout), sampled.total)


def verifier_workers(recipe: Recipe, cluster: ClusterConfig, layout: Layout) -> int:
    """Processes that judge: as many as the recipe says, else one a core of the machines that do."""
    machines = layout.nodes if recipe.verifiers.engine == "ray" else layout.training_nodes
    return recipe.verifiers.workers or cluster.cpu_cores * machines


def _publishing(recipe: Recipe, shape: ModelShape, cluster: ClusterConfig, layout: Layout) -> float:
    gpus = layout.rollout.replicas * layout.rollout.tensor_parallel
    return publishing_seconds(shape, recipe.policy, recipe.rollout, cluster, ranks=layout.training, gpus=gpus)


def _flops(recipe: Recipe, name: str, shape: ModelShape, work: StageWork, iterations: int) -> dict[str, float]:
    """Operations of one step: training by kind of block, generation, scoring; `total` is all of them."""
    policy = stage_policy(recipe, name)
    loss_tokens = 0.0 if isinstance(recipe.stages[name], RewardModelStage) else work.loss_tokens
    found = training_flops(shape, work.documents, loss_tokens, policy)
    found = {f"training_{kind}": iterations * value for kind, value in found.items()}
    sampled = sum(each.count for each in work.answers)
    whole = forward_flops(shape, work.documents, work.completion_tokens)
    found["generation"] = whole if sampled else 0.0  # every token once, each behind what was before it
    found["scoring"] = whole if scored_by(recipe, name) else 0.0
    return {**found, "total": sum(found.values())}
