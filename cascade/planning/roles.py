"""What every role of a stage holds on one accelerator, beside what there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cascade.config import ClusterConfig, PolicyConfig, Recipe, RewardModelStage, SamplingStage
from cascade.planning import memory
from cascade.planning.layout import Layout, scored_by
from cascade.planning.shapes import ModelShape
from cascade.planning.sizes import DTYPE_BYTES, GIB
from cascade.planning.throughput import micro_batches
from cascade.planning.training_states import CPU, GPU, Machine
from cascade.planning.workload import StageWork

USABLE = 0.95
"""Share of an accelerator's memory that can be filled; the rest goes to fragmentation and to libraries' own buffers."""

PASSING = ("activations", "logits", "temporaries")
"""Kinds of a trainer's memory that are free while it does not train."""

CACHE_COPIES = 2
"""transformers' cache exists twice while a token is appended to it."""


@dataclass(frozen=True)
class Role:
    """One role of a stage."""

    name: str  # train | rollout | teacher
    gpus: int  # that it has to itself, or shares with training
    memory: Mapping[str, int]  # kind -> bytes on the fullest of them
    room: int  # bytes that the others on the same accelerator leave; below 0 where they need more than there is
    capacity: int  # bytes of the accelerator
    colocated: bool = False
    more: Mapping[str, int] = field(default_factory=dict)  # further numbers, e.g. sequences at once
    moments: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of training, `memory` being the fullest
    host: int = 0  # bytes of one machine's memory
    host_available: int = 0

    @property
    def total(self) -> int:
        """Bytes that it holds."""
        return sum(self.memory.values())

    @property
    def available(self) -> int:
        """Bytes there for this role."""
        return max(0, self.room)

    @property
    def fits(self) -> bool:
        """Whether there is room, on the accelerator and on the machine."""
        return self.filled <= 1

    @property
    def filled(self) -> float:
        """1 and less: a share of the accelerator; more: by how much of one it is too small. The machine's likewise."""
        here = 1 + (self.total - self.room) / self.capacity
        machine = 1 + (self.host - self.host_available) / max(1, self.host_available)
        return round(max(here, machine), 9)  # caches take all the room there is, but for rounding


def stage_roles(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> list[Role]:
    """The roles of a stage. What shares an accelerator counts against what the others leave."""
    capacity = int(cluster.gpu_memory_gib * GIB)
    room = int(capacity * USABLE)
    moments = _train_memory(recipe, name, shape, cluster, layout, work)
    train = memory.fullest(moments)
    resting = sum(size for kind, size in train.items() if kind not in PASSING)
    rollout = _rollout_memory(recipe, name, shape, cluster, layout, work)
    teacher = _teacher_memory(recipe, name, shape, cluster, work)
    stays = _resident(rollout, layout.rollout.colocated, recipe) + _resident(teacher, layout.teacher.colocated, recipe)
    host = sum(_host_memory(recipe, name, shape, cluster, layout).values())
    roles = [
        Role(
            "train",
            layout.training,
            train,
            room - stays,
            capacity,
            moments=moments,
            host=host,
            host_available=int(cluster.host_memory_gib * GIB),
        )
    ]
    if rollout:
        together = layout.rollout.colocated
        beside = resting + _resident(teacher, layout.teacher.colocated, recipe) if together else 0
        share = recipe.rollout.gpu_memory_utilization if recipe.rollout.engine != "hf" else USABLE
        whole = int(capacity * share)
        roles.append(
            Role(
                "rollout",
                layout.training if together else layout.rollout.gpus,
                rollout,
                min(whole, room - beside),
                capacity,
                together,
                {"sequences": sequences_at_once(recipe, shape, cluster, layout, work)},
            )
        )
    if teacher:
        together = layout.teacher.colocated
        beside = resting + _resident(rollout, layout.rollout.colocated, recipe) if together else 0
        whole = room if together else int(capacity * recipe.rollout.gpu_memory_utilization)
        gpus = layout.training if together else layout.teacher.gpus
        models = {"models": scored_by(recipe, name)}
        roles.append(Role("teacher", gpus, teacher, min(whole, room - beside), capacity, together, models))
    return roles


def _resident(role: Mapping[str, int] | None, colocated: bool, recipe: Recipe) -> int:
    """Bytes that a role keeps on a training accelerator while others work there."""
    if not role or not colocated:
        return 0
    if "kv_cache" in role and recipe.rollout.engine != "hf":  # vLLM keeps all that it was given
        return sum(role.values())
    return role["parameters"]


def _train_memory(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> dict[str, dict[str, int]]:
    stage, policy = recipe.stages[name], stage_policy(recipe, name)
    return memory.training_phases(
        shape,
        policy,
        ranks=layout.training,
        freeze_router=stage.freeze_router,
        row_tokens=longest_row(policy, work),
        micro_batches=micro_batches(work, policy, layout.training).count,
        reward_model=isinstance(stage, RewardModelStage),
        machine=machine_of(cluster),
    )


def machine_of(cluster: ClusterConfig) -> Machine:
    """How memory is counted: as on GPUs, or as on a CPU, whose cluster says so."""
    return CPU if cluster.gpu.lower().startswith("cpu") else GPU


def longest_row(policy: PolicyConfig, work: StageWork) -> int:
    """Tokens of the longest row: a packed one is full; else a prompt of twice the mean and the longest answer."""
    if policy.packing or not work.answers:
        return policy.row_tokens
    return min(policy.row_tokens, max(int(each.limit + 2 * each.prompt) for each in work.answers))


def stage_policy(recipe: Recipe, name: str) -> PolicyConfig:
    """The policy as the stage trains it: reward models take one document a row."""
    is_reward = isinstance(recipe.stages[name], RewardModelStage)
    return replace(recipe.policy, packing=False) if is_reward else recipe.policy


def _host_memory(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout
) -> dict[str, int]:
    return memory.training_host_memory(
        shape,
        recipe.policy,
        ranks=layout.training,
        ranks_per_node=min(layout.training, cluster.gpus_per_node),
        freeze_router=recipe.stages[name].freeze_router,
    )


def longest_sequence(recipe: Recipe, shape: ModelShape, work: StageWork) -> int:
    """Tokens of prompt and completion that a replica must have room for."""
    asked = max((each.limit + int(each.prompt) for each in work.answers), default=1)
    served = recipe.rollout.max_model_len or shape.context or asked
    return served if recipe.rollout.engine != "hf" else asked


def _rollout_memory(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> dict[str, int] | None:
    if not isinstance(recipe.stages[name], SamplingStage):
        return None
    rollout, dtype = recipe.rollout, recipe.policy.dtype
    longest = longest_sequence(recipe, shape, work)
    if rollout.engine == "hf":
        sequences = min(rollout.batch_sequences, max(1, round(work.sequences / layout.training)))
        one = memory.sequence_cache(shape, longest, dtype=dtype)
        return {
            "parameters": shape.total * DTYPE_BYTES[dtype],
            "kv_cache": CACHE_COPIES * sequences * one["kv_cache"],
            "mamba_cache": sequences * one["state_cache"],
            "activations": sequences * (3 * 4 * shape.vocabulary + 16 * shape.hidden * DTYPE_BYTES[dtype]),
        }
    one = memory.sequence_cache(shape, longest, dtype=dtype, tensor_parallel=rollout.tensor_parallel)
    held = memory.rollout_memory(
        shape, rollout, dtype=dtype, gpu_memory_gib=cluster.gpu_memory_gib, max_model_len=longest
    )
    return _at_least(held, one)


def _at_least(held: Mapping[str, int], one: Mapping[str, int]) -> dict[str, int]:
    """vLLM's memory, in which the caches are what is left, or at the least what one longest sequence needs."""
    found = {kind: size for kind, size in held.items() if kind not in ("kv_cache", "state_cache")}
    left, needed = held["kv_cache"] + held.get("state_cache", 0), one["kv_cache"] + one["state_cache"]
    if left >= needed:
        return {**found, "kv_cache": held["kv_cache"], "mamba_cache": held.get("state_cache", 0)}
    return {**found, "kv_cache": one["kv_cache"], "mamba_cache": one["state_cache"]}


def _teacher_memory(
    recipe: Recipe, name: str, shape: ModelShape, cluster: ClusterConfig, work: StageWork
) -> dict[str, int] | None:
    models = scored_by(recipe, name)
    if not models:
        return None
    if recipe.teachers.engine == "local":
        return memory.scoring_memory(
            shape,
            recipe.policy,
            resident=min(recipe.teachers.resident, models),
            row_tokens=longest_row(recipe.policy, work),
            machine=machine_of(cluster),
        )
    held = memory.served_scoring_memory(
        shape,
        dtype=recipe.policy.dtype,
        tensor_parallel=recipe.rollout.tensor_parallel,
        gpu_memory_gib=cluster.gpu_memory_gib,
        max_model_len=recipe.rollout.max_model_len or shape.context or recipe.policy.row_tokens,
    )
    tokens = recipe.rollout.max_model_len or shape.context or recipe.policy.row_tokens
    one = memory.sequence_cache(
        shape, tokens, dtype=recipe.policy.dtype, tensor_parallel=recipe.rollout.tensor_parallel
    )
    return _at_least(held, one)


def sequences_at_once(
    recipe: Recipe, shape: ModelShape, cluster: ClusterConfig, layout: Layout, work: StageWork
) -> int:
    """Sequences of mean length that a replica has room for; at least 0."""
    if recipe.rollout.engine == "hf":
        return min(recipe.rollout.batch_sequences, max(1, round(work.sequences / layout.training)))
    mean = work.tokens / max(1, work.sequences)
    return memory.sequences_at_once(
        shape,
        recipe.rollout,
        dtype=recipe.policy.dtype,
        gpu_memory_gib=cluster.gpu_memory_gib,
        max_model_len=longest_sequence(recipe, shape, work),
        tokens=max(1, int(mean)),
    )
