"""A plan as JSON, for scripts: numbers, never text with units. Every key is explained in docs/planning.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.planning.changes import Changes, words
from cascade.planning.layout import Layout
from cascade.planning.problems import Problem
from cascade.planning.roles import Role
from cascade.planning.shapes import ModelShape
from cascade.planning.sizes import GIB
from cascade.planning.stage_plan import PARTS, RecipePlan, StagePlan

TRAIN = ("parameters", "gradients", "optimizer", "activations", "logits", "temporaries", "communication", "other")
ROLLOUT = ("parameters", "kv_cache", "mamba_cache", "activations", "other")
SCORER = ("parameters", "activations", "logits", "other")
KINDS = {"train": TRAIN, "rollout": ROLLOUT, "teacher": SCORER}
"""Kinds of memory that a role has at the least, 0 where it has none."""


def plan_json(
    plan: RecipePlan, problems: Sequence[Problem], derived: Changes, commands: Sequence[str]
) -> dict[str, Any]:
    """The whole plan."""
    cluster = plan.cluster
    return {
        "recipe": plan.recipe.name,
        "model": {"name": plan.shape.name, "architecture": plan.shape.architecture},
        "cluster": {**vars_of(cluster), "gpus": cluster.nodes * cluster.gpus_per_node},
        "parameters": parameters_json(plan.shape),
        "fits": plan.fits,
        "refused": plan.refused,
        "gpus": plan.layout.gpus,
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "cost_usd": plan.cost_usd,
        "layout": _layout(plan, plan.layout),
        "derived": words(derived),
        "stages": [_stage(stage) for stage in plan.stages],
        "problems": [_problem(problem) for problem in problems],
        "commands": list(commands),
    }


def vars_of(config: Any) -> dict[str, Any]:
    """A config's keys and values, as a mapping of JSON values."""
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}


def parameters_json(shape: ModelShape) -> dict[str, int]:
    """Parameters by kind; the kinds add up to `total`."""
    kinds = ("routed_experts", "shared_experts", "mamba", "attention", "mlp", "embeddings", "router", "norms", "other")
    return {
        "total": shape.total,
        "active": shape.active,
        "active_without_embeddings": shape.active_without_embeddings,
        **{kind: shape.kinds[kind] for kind in kinds},
        "selection_biases": shape.selection_biases,
    }


def _layout(plan: RecipePlan, layout: Layout) -> dict[str, Any]:
    policy, launch = plan.recipe.policy, plan.recipe.launch
    keys = ("zero_stage", "expert_parallel", "sequence_parallel", "rows_per_micro_batch", "row_tokens")
    more = ("activation_checkpointing", "offload_optimizer", "offload_parameters")
    return {
        "nodes": layout.nodes,
        "training": {
            "gpus": layout.training,
            "nodes": layout.training_nodes,
            **{key: getattr(policy, key) for key in (*keys, *more)},
        },
        "rollout": {
            "gpus": layout.training if layout.rollout.colocated else layout.rollout.gpus,
            "nodes": launch.rollout_nodes,
            "engine": layout.rollout.engine,
            "replicas": layout.rollout.replicas,
            "tensor_parallel": layout.rollout.tensor_parallel,
            "colocated": layout.rollout.colocated,
        },
        "teacher": {
            "gpus": layout.teacher.gpus if not layout.teacher.colocated else layout.training * layout.teacher.needed,
            "nodes": launch.teacher_nodes,
            "engine": layout.teacher.engine,
            "replicas": layout.teacher.replicas if layout.teacher.needed else 0,
            "tensor_parallel": layout.teacher.tensor_parallel,
            "colocated": layout.teacher.colocated,
        },
    }


def _stage(stage: StagePlan) -> dict[str, Any]:
    work, seconds = stage.work, stage.seconds
    return {
        "name": stage.name,
        "kind": stage.kind,
        "steps": stage.steps,
        "fits": stage.fits,
        "gpus": stage.gpus,
        "hours": stage.hours,
        "gpu_hours": stage.gpu_hours,
        "roles": {role.name: role_json(role) for role in stage.roles},
        "sequences": work.sequences,
        "tokens": {
            "prompt": work.prompt_tokens,
            "completion": work.completion_tokens,
            "trained": work.loss_tokens,
            "total": work.tokens,
            "longest_completion": work.longest,
        },
        "micro_batches": stage.training.micro_batches,
        "flops_per_step": dict(stage.flops),
        "seconds_per_step": {
            **{part: getattr(seconds, part) for part in PARTS},
            "total": seconds.total,
            "overlapped": seconds.overlapped,
        },
        "training_seconds": {
            "compute": stage.training.compute,
            "communication": stage.training.communication,
            "optimizer": stage.training.optimizer,
        },
    }


def role_json(role: Role) -> dict[str, Any]:
    """One role; the kinds of `memory_gib` add up to its `total`."""
    found = {
        "gpus": role.gpus,
        "memory_gib": memory_json(role.name, role.memory),
        "available_gib": role.available / GIB,
        "fits": role.fits,
        "colocated": role.colocated,
        **role.more,
    }
    if role.name == "train":
        found["moments_gib"] = {moment: memory_json("train", kinds) for moment, kinds in role.moments.items()}
        found |= {"host_gib": role.host / GIB, "host_available_gib": role.host_available / GIB}
    return found


def memory_json(role: str, memory: Mapping[str, int]) -> dict[str, float]:
    """GiB by kind, and in all."""
    found = dict.fromkeys(KINDS[role], 0)
    renamed: Mapping[str, str] = {"state_cache": "mamba_cache"}
    for kind, size in memory.items():
        name = renamed.get(kind, kind)
        name = name if name in found or kind in ("kv_cache", "mamba_cache", "logits", "communication") else "other"
        found[name] = found.get(name, 0) + size
    return {**{kind: size / GIB for kind, size in found.items()}, "total": sum(memory.values()) / GIB}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "stage": problem.stage,
        "role": problem.role,
        "needs_gib": problem.needs / GIB,
        "has_gib": problem.has / GIB,
        "change": words(problem.change) if problem.change is not None else None,
        "says": problem.says,
    }
