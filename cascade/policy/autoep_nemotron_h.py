"""The AutoEP preset of `nemotron_h`, in the form of the files in `deepspeed/module_inject/auto_ep_presets`.

Its mixture-of-experts layers differ from those of DeepSpeed's own presets in three ways: experts have no gate, the
router computes in float32 whatever the model's dtype, and it adds a correction bias to the sigmoid scores by which
experts are chosen, but not to those by which they are weighed (DeepSeek-AI 2024, Auxiliary-loss-free balancing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
from deepspeed.module_inject.auto_ep_presets import registry
from deepspeed.module_inject.auto_ep_presets.base import MoEModelPreset, TransformersTopLevelRouterLogitsAdapter
from torch import nn

from cascade.policy.autoep_non_gated import NOT_GATED, RELU2, NonGatedExperts, register_relu2, without_gate

PRESET_NAME = "nemotron_h"

NO_GATE = "no_gate"

PRESET = MoEModelPreset(
    moe_layer_pattern=r"model\.layers\.\d+\.mixer",
    router_pattern="gate",
    experts_pattern="experts",
    expert_storage="fused_3d",
    expert_w1="up_proj",
    expert_w2="down_proj",
    expert_w3=NO_GATE,
    num_experts_attr="n_routed_experts",
    top_k_attr="num_experts_per_tok",
    score_func="sigmoid",
    score_apply="post",
    route_norm=True,
    gate_bias=False,
    has_shared_experts=True,
    shared_experts_pattern="shared_experts",
    expert_activation=RELU2,
    autoep_config_defaults={"load_balance_coeff": None},
    supports_expert_bias=False,
    preset_adapter=PRESET_NAME,
    hf_model_types=("nemotron_h",),
    min_transformers_version="5.9.0",
    docs_support_notes="Layers with a latent projection (moe_latent_size) are not supported.",
)


class NemotronHPresetAdapter(TransformersTopLevelRouterLogitsAdapter):
    """Experts without a gate, and a router in float32."""

    def validate_compatibility(self, preset_name: str, preset: MoEModelPreset, model_config: Any) -> None:
        """Raises `ValueError` for a latent projection, which AutoEP's layer would leave out in silence."""
        super().validate_compatibility(preset_name, preset, model_config)
        if getattr(model_config, "moe_latent_size", None) is not None:
            raise ValueError(f"AutoEP preset '{preset_name}' does not support moe_latent_size.")

    def resolve_expert_layout(self, experts_module: nn.Module, preset: MoEModelPreset) -> MoEModelPreset:
        """The repacking reads three attributes of the experts; the third is made here, empty."""
        up = getattr(experts_module, preset.expert_w1, None)
        if isinstance(up, torch.Tensor) and not hasattr(experts_module, NO_GATE):
            setattr(experts_module, NO_GATE, without_gate(up.detach()))
        return preset

    def retarget_transformers_output_recorders(
        self,
        model: nn.Module,
        spec: Any,
        replacement: nn.Module,
        retargeted_keys: set[str],
        remove_output_capture_hooks: Callable[[nn.Module], int],
    ) -> None:
        """Called once, when every layer is replaced."""
        for layer in model.modules():
            if isinstance(layer, AutoEPMoELayer) and layer.model_family == PRESET_NAME:
                use_float32_router(layer)
                use_non_gated_experts(layer)
        super().retarget_transformers_output_recorders(
            model, spec, replacement, retargeted_keys, remove_output_capture_hooks
        )


class Float32Linear(nn.Linear):
    """A projection computed in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[T, H] -> [T, E] float32."""
        return nn.functional.linear(input.float(), self.weight.float())


def use_float32_router(layer: AutoEPMoELayer) -> None:
    """The layer's router with the same weights, in float32 whatever the model's dtype."""
    own = layer.router.gate
    gate = Float32Linear(own.in_features, own.out_features, bias=False, device="meta")
    gate.weight = own.weight
    layer.router.gate = gate


def use_non_gated_experts(layer: AutoEPMoELayer) -> None:
    """The layer's experts without a gate, where their activation says that they have none."""
    if layer.experts.activation in NOT_GATED and not isinstance(layer.experts, NonGatedExperts):
        layer.experts = NonGatedExperts(layer.experts)


PRESET_ADAPTERS = {
    PRESET_NAME: NemotronHPresetAdapter(
        display_name="Nemotron-H", hf_model_types=("nemotron_h",), class_name_fragments=("NemotronH",)
    )
}


def register() -> None:
    """Adds the preset to DeepSpeed's, unless a later version brings its own. Idempotent."""
    register_relu2()
    if PRESET_NAME not in registry.PRESET_MODELS:
        registry._PRESET_ADAPTERS.update(PRESET_ADAPTERS)
        registry.PRESET_MODELS[PRESET_NAME] = replace(PRESET)
