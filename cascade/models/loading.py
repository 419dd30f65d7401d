"""Causal language models: loaded from a folder, or built from an architecture's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from cascade.config import PolicyConfig
from cascade.errors import ConfigError, EngineError
from cascade.naming import nearest

UNDECLARED = {"head_dim"}  # attention layers read it from the config even where the config class does not list it
transformers.utils.logging.disable_progress_bar()  # one quiet line a step, and nothing between
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(path: str | Path, policy: PolicyConfig) -> Any:
    """The model in `path` with the policy's dtype and kernels.

    Raises `EngineError` when a tensor of the model is not in the folder or one of the folder is not in the model:
    a tensor that is skipped in silence is a model nobody asked for.
    """
    chosen = kernels(policy, AutoConfig.from_pretrained(path))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=DTYPES[policy.dtype], output_loading_info=True, **chosen
    )
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            some = ", ".join(str(name) for name in list(info[problem])[:3])
            raise EngineError(
                f"Loading {path} left {len(info[problem])} {problem.replace('_', ' ')}, e.g. {some}.",
                "Export the checkpoint again with the same version of transformers, or repair its names.",
            )
    return model


def kernels(policy: PolicyConfig, config: Any) -> dict[str, str]:
    """transformers' names for the attention and expert kernels, the latter for mixtures of experts only."""
    chosen = {"attn_implementation": policy.attention}
    if is_moe(config):
        chosen["experts_implementation"] = policy.experts
    return chosen


def is_moe(config: Any) -> bool:
    """Whether the architecture routes tokens to experts."""
    return any(getattr(config, key, None) for key in ("num_experts", "n_routed_experts", "num_local_experts"))


def has_recurrent_layers(config: Any) -> bool:
    """Whether some layers carry a state along the sequence (Mamba, linear attention), across packed documents too."""
    kinds = [
        str(kind) for kind in getattr(config, "layers_block_type", None) or getattr(config, "layer_types", None) or []
    ]
    return (
        any(word in kind for kind in kinds for word in ("mamba", "linear", "recurrent")) or "mamba" in config.model_type
    )


def build_model(
    architecture: str, keys: Mapping[str, Any], seed: int, vocabulary: int, special: Mapping[str, int]
) -> Any:
    """A freshly initialised fp32 model; the same seed gives the same weights.

    `special` holds the token ids that the tokenizer decides. Raises `ConfigError` for an unknown architecture or an
    unknown key of its config (transformers itself would keep an unknown key and ignore it).
    """
    known = transformers.CONFIG_MAPPING
    if architecture not in known:
        raise ConfigError(
            f"`model.architecture` is `{architecture}`, which transformers {transformers.__version__} does not know.",
            nearest(architecture, known.keys(), "architecture"),
        )
    valid = vars(known[architecture]()).keys()
    config = known[architecture](**{**keys, **special, "vocab_size": vocabulary})
    for name in keys:
        if name not in valid and name not in UNDECLARED and name in vars(config):  # kept as it came: nothing reads it
            raise ConfigError(f"Unknown key `model.config.{name}` for {architecture}.", nearest(name, valid, "key"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
