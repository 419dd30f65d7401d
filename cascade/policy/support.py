"""What an architecture cannot have, said when a run starts: any causal language model trains, not each in every way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cascade.config import LoraConfig, PolicyConfig
from cascade.errors import EngineError
from cascade.models.load_balance import selection_biases
from cascade.models.loading import is_moe, require_separable
from cascade.models.moe_blocks import moe_blocks
from cascade.models.router_hooks import routed_layers
from cascade.policy.expert_parallel import require_known_experts
from cascade.policy.lora_targets import adapted_modules
from cascade.policy.sliceable_models import require_sliceable


def unsupported(folder: str | Path) -> list[str]:
    """The keys that the model in a folder cannot have, each with the reason: `policy.packing: Layers of ...`.

    Only its config is read; the model is built on the meta device. What a dense model lacks for want of experts is
    not listed.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    checks: dict[str, Callable[[], Any]] = {
        "policy.packing": lambda: require_separable(config, PolicyConfig(packing=True)),
        "policy.sequence_parallel": lambda: require_sliceable(model, 2, 2),
        "policy.lora": lambda: adapted_modules(model, LoraConfig(), moe_blocks(model)),
    }
    if is_moe(config):
        checks["policy.expert_parallel"] = lambda: require_known_experts(config, "As it is,")
        checks["expert_bias_update_rate"] = lambda: selection_biases(_watched(model))
    return [f"{key}: {reason}" for key, check in checks.items() if (reason := _refusal(check)) is not None]


def _watched(model: Any) -> Any:
    layers = routed_layers(model)
    if not layers or not all(layer.chooser for layer in layers):
        raise EngineError("How its routers choose experts cannot be seen.", "")
    return layers


def _refusal(check: Callable[[], Any]) -> str | None:
    try:
        check()
    except EngineError as error:
        return error.what
    return None
