"""Which layers get adapters, and which are refused one because nothing would come of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from cascade.config import LoraConfig
from cascade.errors import EngineError
from cascade.models.moe_blocks import MoeBlock, whole_shape
from cascade.naming import nearest


def adapted_modules(model: Any, lora: LoraConfig, blocks: list[MoeBlock]) -> list[str]:
    """Names of the linear layers that get adapters. Raises `EngineError` for a target that is
    not there or that an adapter would not reach."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = {name for name, module in linear.items() if module is model.get_output_embeddings()}
    routers = tuple(block.router_name for block in blocks)
    experts = tuple(f"{block.experts_name}." for block in blocks)
    mixers = _mixers(model)
    reachable = [name for name in linear if not name.startswith(routers) and name not in head]
    if not lora.targets:
        skipped = tuple(f"{name}." for name in mixers) + (() if lora.experts else experts)
        return sorted(name for name in reachable if not name.startswith(skipped))
    found = []
    for target in lora.targets:
        _require_reached(model, target, mixers, head, routers)
        matches = [name for name in reachable if name == target or name.endswith(f".{target}")]
        if not matches:
            known = sorted({name.rpartition(".")[2] for name in reachable})
            raise EngineError(
                f"`policy.lora.targets` names {target}, and {type(model).__name__} has no such linear layer.",
                nearest(target, known, "layer"),
            )
        found += matches
    return sorted(set(found))


def adapted_experts(lora: LoraConfig, blocks: list[MoeBlock]) -> list[str]:
    """Names of the tensors [E, out, in] that get adapters, one pair of matrices an expert."""
    if not lora.experts:
        return []
    if not blocks:
        raise EngineError("`policy.lora.experts` is true, but the model has no experts.", "Remove it.")
    return [
        f"{block.experts_name}.{name}"
        for block in blocks
        for name, parameter in block.experts.named_parameters(recurse=False)
        if len(whole_shape(parameter)) == 3
    ]


def _require_reached(model: Any, target: str, mixers: list[str], head: set[str], routers: tuple[str, ...]) -> None:
    """Refuses what is read as a bare weight somewhere, past any adapter."""
    named = [name for name, _ in model.named_modules() if name == target or name.endswith(f".{target}")]
    kind = type(model).__name__
    if any(name.startswith(f"{mixer}.") for name in named for mixer in mixers) and target.endswith(
        ("out_proj", "conv1d")
    ):
        raise EngineError(
            f"`policy.lora.targets` names {target} of {kind}'s recurrent layers, whose fused kernels read the weight "
            "itself and would ignore an adapter.",
            "Remove it; `in_proj` can be adapted.",
        )
    if head & set(named):
        raise EngineError(
            f"`policy.lora.targets` names {target}, the LM head, whose weight is read chunk by chunk past an adapter.",
            "Remove it.",
        )
    if any(name.startswith(router) for name in named for router in routers):
        raise EngineError(
            f"`policy.lora.targets` names {target}, a router of {kind}, which is never adapted.", "Remove it."
        )


def _mixers(model: nn.Module) -> list[str]:
    """Layers with a convolution along the sequence: Mamba, gated delta nets and their kin."""
    return [
        name
        for name, module in model.named_modules()
        if any(isinstance(child, nn.Conv1d) for child in module.children())
    ]
