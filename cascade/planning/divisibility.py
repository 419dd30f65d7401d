"""Whether a model's heads, experts and groups can be shared out as a recipe asks, and a cluster has enough of all."""

from __future__ import annotations

from cascade.config import ClusterConfig, PolicyConfig, Recipe
from cascade.planning.layout import Layout
from cascade.planning.shapes import LayerShape, ModelShape
from cascade.sharding_checks import EXPERT_PARALLEL


def why_impossible(recipe: Recipe, shape: ModelShape, cluster: ClusterConfig, layout: Layout) -> str | None:
    """One sentence about the first thing that keeps the layout from running, or None."""
    return (
        too_few(recipe, cluster, layout)
        or training_indivisible(shape, recipe.policy, layout.training)
        or serving_indivisible(recipe, shape, layout)
    )


def too_few(recipe: Recipe, cluster: ClusterConfig, layout: Layout) -> str | None:
    """What the cluster lacks."""
    total = cluster.nodes * cluster.gpus_per_node
    if layout.gpus > total or layout.nodes > cluster.nodes:
        return (
            f"The layout takes {layout.gpus} accelerators on {layout.nodes} machines, and the cluster has {total} on "
            f"{cluster.nodes}."
        )
    if layout.rollout.needed and layout.rollout.tensor_parallel > cluster.gpus_per_node:
        return (
            f"`rollout.tensor_parallel` is {layout.rollout.tensor_parallel}, and a machine has "
            f"{cluster.gpus_per_node} accelerators: a server stays on one machine."
        )
    if recipe.launch.processes > cluster.gpus_per_node:
        return (
            f"`launch.processes` is {recipe.launch.processes}, and a machine has {cluster.gpus_per_node} accelerators."
        )
    return None


def training_indivisible(shape: ModelShape, policy: PolicyConfig, ranks: int) -> str | None:
    """What does not divide among the training processes."""
    experts, rows = policy.expert_parallel, policy.sequence_parallel
    if experts > 1:
        mixtures = shape.of_kind("moe")
        if not mixtures or shape.architecture not in EXPERT_PARALLEL:
            return f"`policy.expert_parallel` is {experts}, which {shape.architecture} cannot have."
        if policy.zero_stage not in (1, 2):
            return f"`policy.expert_parallel` is {experts}, which needs ZeRO 1 or 2."
        if ranks % experts or any(layer.experts % experts for layer in mixtures):
            return f"`policy.expert_parallel` is {experts}, which does not divide {ranks} processes and the experts."
    if rows > 1:
        if ranks % rows:
            return f"`policy.sequence_parallel` is {rows}, which does not divide {ranks} processes."
        if any(layer.heads % rows for layer in shape.of_kind("attention")):
            return f"`policy.sequence_parallel` is {rows}, which does not divide the model's attention heads."
        if any(_mamba_indivisible(shape, layer, rows) for layer in shape.of_kind("mamba")):
            return f"`policy.sequence_parallel` is {rows}, which the model's recurrent layers cannot have."
    return None


def _mamba_indivisible(shape: ModelShape, layer: LayerShape, size: int) -> bool:
    return shape.architecture != "nemotron_h" or bool(layer.heads % size or layer.groups % size)


def serving_indivisible(recipe: Recipe, shape: ModelShape, layout: Layout) -> str | None:
    """What does not divide among the accelerators of a server, by vLLM's rules."""
    size = layout.rollout.tensor_parallel
    served = layout.rollout.needed or layout.teacher.engine == "vllm_server"
    if size == 1 or not served:
        return None
    for layer in shape.of_kind("attention"):
        if layer.heads % size or (layer.kv_heads % size and size % max(1, layer.kv_heads)):
            return f"`rollout.tensor_parallel` is {size}, which does not divide the model's {layer.heads} heads."
    for layer in shape.of_kind("mamba"):
        if layer.heads % size:
            return f"`rollout.tensor_parallel` is {size}, which does not divide {layer.heads} heads of a Mamba layer."
    for layer in shape.of_kind("moe"):
        if layer.expert_width % size:
            return f"`rollout.tensor_parallel` is {size}, which does not divide experts of width {layer.expert_width}."
    return None
