"""Mixture-of-experts blocks, found by what they own: experts, and a router that chooses among them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from cascade.errors import EngineError
from cascade.models.loading import is_moe


@dataclass(frozen=True)
class MoeBlock:
    """One block, e.g. `model.layers.3.mlp` with `experts` and `gate`, or with `shared_experts` besides."""

    name: str
    module: nn.Module
    experts_name: str
    """Of the module that holds the experts: one tensor [E, out, in] a projection, or a list of modules."""
    experts: nn.Module
    router_name: str
    router: nn.Module
    num_experts: int


def moe_blocks(model: nn.Module) -> list[MoeBlock]:
    """Every block of a transformers model, in the order of its layers; none for a dense model.

    Experts are a module with three-dimensional parameters of its own, [E, ., .] each, or a list of E modules of one
    class. The block is the nearest module above them that also owns a router: a child with a matrix of E rows, or one
    whose class says that it is a router. No class is named here, so a new architecture needs no line.

    Raises `EngineError` when the config speaks of experts and no block is found.
    """
    modules = dict(model.named_modules())
    found = [
        block
        for name, module in modules.items()
        if (count := _experts_of(module)) and (block := _block_above(modules, name, count))
    ]
    config = getattr(model, "config", None)
    kinds = getattr(config, "layers_block_type", None) or ["moe"]
    if not found and is_moe(config) and "moe" in kinds:  # hybrids name the kind of every layer
        raise EngineError(
            f"{type(model).__name__} has experts, but no module of it owns experts and a router.",
            "Teach `cascade.models.moe_blocks` its structure.",
        )
    return found


def _experts_of(module: nn.Module) -> int:
    """How many experts the module holds; 0 where it holds none."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        members = list(module.children())
        alike = len({type(member) for member in members}) == 1
        return len(members) if alike and len(members) > 1 and any(True for _ in members[0].parameters()) else 0
    if isinstance(module, _ConvNd):  # a kernel is three-dimensional too
        return 0
    return max((shape[0] for shape in _own_shapes(module) if len(shape) == 3), default=0)


def _own_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [whole_shape(parameter) for parameter in module.parameters(recurse=False)]


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the whole tensor; a ZeRO-3 shard is empty and remembers it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _block_above(modules: dict[str, nn.Module], experts: str, count: int) -> MoeBlock | None:
    """The nearest module above that owns a router too. Lists of layers have none above them."""
    name = experts
    while "." in name:
        below, name = name, name.rpartition(".")[0]
        for child, module in modules[name].named_children():
            router = f"{name}.{child}"
            if router != below and _routes(module, count):
                all_experts = getattr(module, "num_experts", count)  # of which this process may hold a share
                return MoeBlock(name, modules[name], experts, modules[experts], router, module, all_experts)
        if _experts_of(modules[name]):  # a list of experts that hold parts of their own
            return None
    return None


def _routes(module: nn.Module, count: int) -> bool:
    if type(module).__name__.lower().endswith("router"):
        return True
    return any(len(shape) == 2 and shape[0] == count for part in module.modules() for shape in _own_shapes(part))
