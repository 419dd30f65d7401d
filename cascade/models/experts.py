"""Mixture-of-experts routers: found by structure, frozen where a stage says so."""

from __future__ import annotations

from typing import Any

from torch import nn

from cascade.errors import EngineError
from cascade.models.loading import is_moe


def router_parameters(model: Any) -> list[tuple[str, nn.Parameter]]:
    """The weights that choose experts, by name.

    A router is a module whose class says so (`Qwen3MoeTopKRouter`, `NemotronHTopkRouter`). Raises `EngineError` when
    a mixture of experts seems to have none: freezing nothing in silence is what users have paid for elsewhere.
    """
    found = [
        (f"{name}.{inner}", parameter)
        for name, module in model.named_modules()
        if type(module).__name__.lower().endswith("router")
        for inner, parameter in module.named_parameters(recurse=False)
    ]
    if is_moe(model.config) and not found:
        raise EngineError(
            f"{type(model).__name__} has experts but no module named as a router.",
            "Teach `cascade.models.experts.router_parameters` its structure.",
        )
    return found


def freeze_routers(model: Any) -> list[str]:
    """Takes the routers out of training; returns their names."""
    names = []
    for name, parameter in router_parameters(model):
        parameter.requires_grad_(False)
        names.append(name)
    return names
