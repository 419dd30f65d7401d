"""What is asserted of a DeepSpeed engine once it stands: that it became what the recipe asks for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.models.loading import DTYPES
from cascade.models.moe_blocks import MoeBlock


def check_engine(
    engine: Any, model: Any, policy: PolicyConfig, trainable: Collection[str] | None, leaves: Collection[MoeBlock]
) -> None:
    """Raises `EngineError` with the first thing that is not as asked. Collective.

    Args:
        engine: what `deepspeed.initialize` returned for `model`.
        trainable: names of the parameters that are to be trained, and no others; None: another check knows.
        leaves: the blocks that ZeRO-3 is to gather as one.
    """
    if policy.zero_stage == 3:
        _check_partitions(model)
        _check_leaves(leaves)
    else:
        _check_whole(model, policy.zero_stage)
    _check_trainable(engine, model, policy.zero_stage, trainable)
    _check_dtype(model, policy)
    if policy.zero_stage in (1, 2):
        _check_optimizer_shards(engine.optimizer)
    _check_offload(engine.optimizer, model, policy)


def _check_trainable(engine: Any, model: Any, zero_stage: int, asked: Collection[str] | None) -> None:
    """Names, and that the optimiser holds these parameters and no others."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if asked is not None and set(trained) != set(asked):
        name = sorted(set(trained) ^ set(asked))[0]
        raise _not_as_asked(f"{name} is {'trained' if name in trained else 'frozen'}, against the recipe")
    held = {id(parameter) for group in _parameter_groups(engine.optimizer, zero_stage) for parameter in group}
    missing = [name for name, parameter in trained.items() if id(parameter) not in held]
    if missing or len(held) != len(trained):
        some = f", e.g. without {missing[0]}" if missing else ""
        raise _not_as_asked(f"the optimiser holds {len(held)} of {len(trained)} parameters{some}")


def _parameter_groups(optimizer: Any, zero_stage: int) -> list[list[torch.nn.Parameter]]:
    """The model's own parameters as the engine's optimiser holds them."""
    if zero_stage in (1, 2):
        return optimizer.bit16_groups
    if hasattr(optimizer, "fp16_groups"):  # ZeRO-3, and what wraps bf16 without ZeRO
        return optimizer.fp16_groups
    return [group["params"] for group in optimizer.param_groups]


def _check_dtype(model: Any, policy: PolicyConfig) -> None:
    other = [name for name, parameter in model.named_parameters() if parameter.dtype != DTYPES[policy.dtype]]
    if other:
        raise _not_as_asked(f"{other[0]} is not in {policy.dtype}")


def _check_whole(model: Any, zero_stage: int) -> None:
    partitioned = [name for name, parameter in model.named_parameters() if hasattr(parameter, "ds_id")]
    if partitioned:
        raise _not_as_asked(f"{partitioned[0]} is partitioned under ZeRO-{zero_stage}")


def _check_partitions(model: Any) -> None:
    """Every parameter is partitioned, and what the processes hold of it adds up to the whole with its padding."""
    parameters = dict(model.named_parameters())
    whole = [name for name, parameter in parameters.items() if not hasattr(parameter, "ds_id")]
    if whole:
        raise _not_as_asked(f"{len(whole)} of {len(parameters)} parameters are not partitioned, e.g. {whole[0]}")
    own = torch.tensor([_local_elements(parameter) for parameter in parameters.values()], device=parallel.device())
    held = own.clone()
    dist.all_reduce(held)
    for (name, parameter), elements in zip(parameters.items(), held.tolist(), strict=True):
        padding = elements - parameter.ds_numel
        if not 0 <= padding < dist.get_world_size() or parameter.ds_shape.numel() != parameter.ds_numel:
            raise _not_as_asked(f"{name} has {parameter.ds_numel} elements, of which processes hold {elements}")


def _local_elements(parameter: Any) -> int:
    shard = parameter.ds_tensor
    return int(shard.ds_numel if shard.final_location is not None else shard.numel())  # on a disk: not in memory


def _check_leaves(blocks: Collection[MoeBlock]) -> None:
    """Every block is a leaf, and hooks of the engine know its parameters as such."""
    for block in blocks:
        inside = dict(block.module.named_parameters())
        strayed = [name for name, own in inside.items() if getattr(own, "ds_z3_leaf_module", None) is not block.module]
        if not getattr(block.module, "_z3_leaf", False) or strayed:
            raise _not_as_asked(f"{block.name} is not gathered as one by ZeRO-3")


def _check_optimizer_shards(optimizer: Any) -> None:
    """What the processes hold of every group in fp32 adds up to the group with its padding."""
    for number, (parameters, shard) in enumerate(
        zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
    ):
        group = optimizer.real_dp_process_group[number]
        held = torch.tensor([shard.numel()], device=parallel.device())
        dist.all_reduce(held, group=group)
        padding = int(held) - sum(parameter.numel() for parameter in parameters)
        alignment = optimizer.nccl_start_alignment_factor * dist.get_world_size(group)
        if not 0 <= padding < alignment or shard.dtype != torch.float32:
            raise _not_as_asked(f"the optimiser's shards of group {number} are {padding} elements off, or not in fp32")


def _check_offload(optimizer: Any, model: Any, policy: PolicyConfig) -> None:
    """What is to wait outside the GPU does, and nothing else."""
    found = getattr(optimizer, "offload_optimizer", None) or getattr(optimizer, "cpu_offload", False)
    if bool(found) != (policy.offload_optimizer != "none"):
        raise _not_as_asked(f"the optimiser's state is {'off' if found else 'on'} the device")
    if policy.zero_stage == 0:
        return
    name = "fp32_partitioned_groups_flat" if policy.zero_stage == 3 else "single_partition_of_fp32_groups"
    places = {shard.device.type for shard in getattr(optimizer, name)}
    if policy.offload_optimizer != "none" and places - {"cpu"}:
        raise _not_as_asked(f"the optimiser's state is on {sorted(places)}")
    if policy.zero_stage == 3 and policy.offload_parameters != "none":
        kept = [n for n, p in model.named_parameters() if p.ds_tensor.device.type != "cpu" and not p.ds_persist]
        if kept or not getattr(optimizer, "offload_param", False):
            raise _not_as_asked(f"parameters are on the device, e.g. {kept[0] if kept else 'all of them'}")


def trainable_names(model: Any) -> frozenset[str]:
    """What the model's own flags say."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def _not_as_asked(what: str) -> EngineError:
    return EngineError(
        f"The DeepSpeed engine is not as asked: {what}.",
        "Check `policy.deepspeed` and the DeepSpeed version with `cascade doctor`.",
    )
