"""Expert parallelism by DeepSpeed's AutoEP: a layer's experts shared out over processes, tokens sent to them and back.

AutoEP brings the layers, the all-to-all and the reduction of gradients. What it leaves to luck is done here: an
architecture it does not know is refused instead of left alone, routers stay transformers' own module (one arithmetic of
routing everywhere, and whatever hangs on a router goes on working), and what came out is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoConfig

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.models.expert_names import ExpertNames, ExpertTensor, join
from cascade.models.loading import is_moe
from cascade.models.moe_blocks import moe_blocks
from cascade.sharding_checks import EXPERT_PARALLEL, against_expert_parallel


def check_folder(folder: str | Path, policy: PolicyConfig) -> None:
    """`check_expert_parallel` of the model in a folder, before its weights are read."""
    if policy.expert_parallel > 1:
        parallel.start()
        check_expert_parallel(AutoConfig.from_pretrained(folder), policy)


def check_expert_parallel(config: Any, policy: PolicyConfig) -> None:
    """Raises `EngineError` for a transformers `config` whose experts cannot be shared out as `policy` asks."""
    size = policy.expert_parallel
    if size == 1:
        return
    asked = f"`policy.expert_parallel` is {size}, but"
    require_known_experts(config, asked)
    key = against_expert_parallel(policy)
    if key:
        raise EngineError(
            f"{asked} `policy.{key}` is {getattr(policy, key)}, which it cannot go with.",
            "Set one of the two otherwise; docs/expert_parallelism.md says why.",
        )
    experts = getattr(config, EXPERT_PARALLEL[config.model_type])
    for number, of in ((experts, "experts in a layer"), (parallel.world_size(), "processes")):
        if number % size:
            raise EngineError(
                f"{asked} {number} {of} cannot be shared out among {size}.",
                f"Choose a number that divides both {experts} experts and {parallel.world_size()} processes.",
            )


def require_known_experts(config: Any, asked: str) -> None:
    """Raises `EngineError`, beginning with `asked`, for an architecture whose experts cannot be shared out at all."""
    if not is_moe(config):
        raise EngineError(f"{asked} {config.model_type} has no experts.", "Set `policy.expert_parallel=1`.")
    if config.model_type not in EXPERT_PARALLEL:
        raise EngineError(
            f"{asked} the experts of {config.model_type} are not known to this version.",
            f"Set `policy.expert_parallel=1`, or train {' or '.join(EXPERT_PARALLEL)}.",
        )
    if getattr(config, "moe_latent_size", None) is not None:
        raise EngineError(
            f"{asked} the experts of this {config.model_type} work in a latent space, which AutoEP leaves out.",
            "Set `policy.expert_parallel=1`.",
        )


class TransformersRouter(nn.Module):
    """transformers' own router in the place of AutoEP's: its scores, its precision, its hooks."""

    def __init__(self, gate: nn.Module, num_experts: int) -> None:
        super().__init__()
        self.gate = gate
        self.num_experts = num_experts

    def forward(
        self, tokens: torch.Tensor, expert_bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """tokens [T, H] -> weights [T, K] and numbers [T, K] of the chosen experts, and tokens an expert [E] int32."""
        if expert_bias is not None:
            raise EngineError("AutoEP balances experts by a bias of its own.", "Leave `load_balance_coeff` unset.")
        _, weights, chosen = self.gate(tokens)
        flat = chosen.reshape(-1)
        counts = torch.zeros(self.num_experts, dtype=torch.int32, device=flat.device)  # `bincount` waits for a GPU
        return weights, chosen, counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))


@dataclass(frozen=True)
class ShardedExperts:
    """What became of a model's experts."""

    size: int  # processes that share a layer's experts
    rank: int  # of this one among them
    group: Any
    names: ExpertNames
    trainable: frozenset[str]  # transformers' names of what is to be trained

    @torch.no_grad()
    def weights(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter and persistent buffer whole, under transformers' names. Collective.

        The experts of one tensor of one layer are gathered at a time; they may be gone when the next is asked for.
        """
        persistent = set(model.state_dict(keep_vars=True))
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
        tensors: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **buffers}
        for name, tensor in tensors.items():
            experts = self.names.tensor(name)
            if experts is None:
                if not self.names.is_empty(name):
                    yield self.names.whole_name(name), tensor.detach()
            elif name == experts.parts[0]:
                yield experts.whole, self.whole(experts, tensors)

    def whole(self, experts: ExpertTensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One tensor of one layer from what every process holds of it, or of its gradient or moment. Collective."""
        own = join(experts, {part: tensors[part].detach() for part in experts.parts}).contiguous()
        whole = own.new_empty(experts.shape)
        dist.all_gather(list(whole.chunk(self.size)), own, group=self.group)
        return whole


def shard_experts(model: Any, policy: PolicyConfig) -> ShardedExperts | None:
    """Replaces the experts of a transformers model by this process's share of them; None where nothing is asked.

    Before the optimiser and the engine are made, with the model where it was loaded: only the share has to fit the
    accelerator. Raises `EngineError` where AutoEP does not find every layer.
    """
    if not _shares(policy):
        return None
    check_expert_parallel(model.config, policy)
    from deepspeed.utils import groups

    size = policy.expert_parallel
    names = ExpertNames(model)
    trainable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    groups._create_expert_and_data_parallel(expert_parallel_size_=size)
    group = groups._get_expert_parallel_group(f"ep_size_{size}")
    rank = dist.get_rank(group)
    _replace_layers(model, size, rank, grouped=policy.experts == "grouped_mm")
    return ShardedExperts(size, rank, group, names, trainable)


def _shares(policy: PolicyConfig) -> bool:
    return policy.expert_parallel > 1


def _replace_layers(model: Any, size: int, rank: int, *, grouped: bool) -> None:
    """Every layer with experts becomes AutoEP's, around transformers' own router."""
    from deepspeed.module_inject.auto_ep import AutoEP
    from deepspeed.module_inject.auto_ep_config import AutoEPConfig

    from cascade.policy import autoep_nemotron_h

    autoep_nemotron_h.register()
    # Scores come scaled from transformers' own router: AutoEP's scale is not asked for.
    converter = AutoEP(
        model, AutoEPConfig(enabled=True, autoep_size=size, use_grouped_mm=grouped, routed_scaling_factor=1.0)
    )
    try:
        specs = converter.ep_parser()
    except ValueError as error:
        raise _not_as_asked(str(error)) from error
    # Routers alone: what still holds a layer keeps all its experts in memory.
    routers = {block.name: TransformersRouter(block.router, block.num_experts) for block in moe_blocks(model)}
    _check_found({spec.moe_module_name for spec in specs}, set(routers))
    # Routers stay transformers' own, so nothing that transformers records of them has to be pointed elsewhere.
    kept = {"preset_adapter": "default", "router_logits_capture_target": "none", "return_router_logits": False}
    converter.replace_moe_layers([replace(spec, **kept) for spec in specs], size, rank)
    for name, router in routers.items():
        layer = model.get_submodule(name)
        layer.router = router
        autoep_nemotron_h.use_non_gated_experts(layer)


def expert_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimiser's groups with sharded experts in groups of their own, as ZeRO wants them; settings stay."""
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    named = [{**group, "name": f"group{number}"} for number, group in enumerate(groups)]
    return [group for group in split_params_into_different_moe_groups_for_optimizer(named) if group["params"]]


def check_experts(experts: ShardedExperts, model: nn.Module, optimizer: Any) -> None:
    """The engine did what was asked for. Raises `EngineError` with the first thing that is otherwise.

    Args:
        optimizer: the engine's own, after `deepspeed.initialize`.
    """
    if dist.get_world_size(experts.group) != experts.size:
        raise _not_as_asked(f"the group has {dist.get_world_size(experts.group)} processes")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    experts.names.check_sharded([*shapes, *(name for name in model.state_dict() if name not in shapes)])
    for tensor in experts.names.tensors:
        share, rows = tensor.shape[0] // experts.size, tensor.shape[1] // len(tensor.parts)
        for part in tensor.parts:
            if shapes[part] != (share, rows, tensor.shape[2]):
                raise _not_as_asked(f"{part} is {shapes[part]}, not {(share, rows, tensor.shape[2])}")
    trained = {experts.names.whole_name(name) for name, own in model.named_parameters() if own.requires_grad}
    if trained != experts.trainable:
        raise _not_as_asked(f"{sorted(trained ^ experts.trainable)[0]} is trained or frozen against what was asked")
    _check_groups(experts, model, optimizer)


def _check_groups(experts: ShardedExperts, model: nn.Module, optimizer: Any) -> None:
    """Expert gradients are summed over the processes with the same experts, all others over every process."""
    if not hasattr(optimizer, "is_moe_param_group"):
        raise _not_as_asked(f"{type(optimizer).__name__} has no groups of experts")
    sharded = {id(own) for name, own in model.named_parameters() if experts.names.tensor(name) is not None}
    for parameters, over_some in zip(optimizer.bit16_groups, optimizer.is_moe_param_group, strict=True):
        if any((id(parameter) in sharded) != over_some for parameter in parameters):
            raise _not_as_asked("an expert's gradients would be summed over other experts")


def _check_found(found: set[str], asked: set[str]) -> None:
    if found != asked:
        raise _not_as_asked(
            f"{len(asked - found)} of {len(asked)} layers were not found, e.g. {sorted(found ^ asked)[0]}"
        )


def _not_as_asked(what: str) -> EngineError:
    return EngineError(
        f"Expert parallelism is not as asked: {what}.", "Check the versions of DeepSpeed and transformers."
    )
