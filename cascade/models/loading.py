"""Causal language models: loaded from a folder, or built from an architecture's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from cascade.config import ModelConfig, PolicyConfig
from cascade.errors import ConfigError, EngineError
from cascade.models.mamba_documents import MIXERS
from cascade.naming import nearest

UNDECLARED = {"head_dim"}  # attention layers read it from the config even where the config class does not list it
transformers.utils.logging.disable_progress_bar()  # one quiet line a step, and nothing between
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(path: str | Path, policy: PolicyConfig) -> Any:
    """The model in `path` with the policy's dtype and kernels.

    Raises `EngineError` when a tensor of the model is not in the folder or one of the folder is not in the model:
    a tensor that is skipped in silence is a model nobody asked for.
    """
    config = AutoConfig.from_pretrained(path)
    require_separable(config, policy)
    chosen = kernels(policy, config)
    told: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told, and refused below
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(path), dtype=DTYPES[policy.dtype], **told, **chosen)
    except RuntimeError as error:
        if "automatic conversion" not in str(error):  # out of memory, for one
            raise
        raise EngineError(
            f"The tensors in {path} do not make the tensors of the model: a layer's experts differ in number or shape.",
            "Export the checkpoint again with the same version of transformers, or repair it.",
        ) from error
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
    """transformers' names for the attention and expert kernels, the latter for mixtures of experts only.

    Raises `EngineError` for flash attention that is not installed.
    """
    installed = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if policy.attention in installed and not installed[policy.attention]():
        raise EngineError(
            f"`policy.attention` is {policy.attention}, which is not installed here, or there is no GPU for it.",
            "Install its package, or set `policy.attention=sdpa`.",
        )
    chosen = {"attn_implementation": policy.attention}
    if is_moe(config):
        chosen["experts_implementation"] = policy.experts
    return chosen


def is_moe(config: Any) -> bool:
    """Whether the architecture routes tokens to experts."""
    return any(getattr(config, key, None) for key in ("num_experts", "n_routed_experts", "num_local_experts"))


def has_recurrent_layers(config: Any) -> bool:
    """Whether some layers carry a state along the sequence (Mamba, linear attention), across packed documents too."""
    if text := getattr(config, "text_config", None):
        config = text
    kinds = [
        str(kind) for kind in getattr(config, "layers_block_type", None) or getattr(config, "layer_types", None) or []
    ]
    causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return (
        any(word in kind for kind in kinds for word in ("mamba", "linear", "recurrent", "conv", "hybrid"))
        or "mamba" in config.model_type
        or bool(getattr(causal, "_is_stateful", False))  # transformers' word for a cache that cannot be rolled back
    )


def require_separable(config: Any, policy: PolicyConfig) -> None:
    """Raises `EngineError` where layers would carry a state from one packed document to the next."""
    kind = getattr(config, "text_config", config).model_type
    if policy.packing and has_recurrent_layers(config) and kind not in MIXERS:
        raise EngineError(
            f"Layers of {kind} carry a state from token to token, across packed documents too.",
            f"Set `policy.packing=false`; packing keeps documents apart in {', '.join(sorted(MIXERS))}.",
        )


def build_model(
    architecture: str, keys: Mapping[str, Any], seed: int, vocabulary: int, special: Mapping[str, int]
) -> Any:
    """A freshly initialised fp32 model; the same seed gives the same weights.

    `special` holds the token ids that the tokenizer decides. Raises `ConfigError` for an unknown architecture or an
    unknown key of its config.
    """
    config = config_of_keys(architecture, keys, {**special, "vocab_size": vocabulary})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def config_of_keys(architecture: str, keys: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Any:
    """The config that a recipe's `model.architecture` and `model.config` declare, with `more` over it.

    Raises `ConfigError` for an unknown architecture or an unknown key of its config (transformers itself would keep an
    unknown key and ignore it).
    """
    known = transformers.CONFIG_MAPPING
    if architecture not in known:
        raise ConfigError(
            f"`model.architecture` is `{architecture}`, which transformers {transformers.__version__} does not know.",
            nearest(architecture, known.keys(), "architecture"),
        )
    valid = vars(known[architecture]()).keys()
    config = known[architecture](**{**keys, **(more or {})})
    for name in keys:
        if name not in valid and name not in UNDECLARED and name in vars(config):  # kept as it came: nothing reads it
            raise ConfigError(f"Unknown key `model.config.{name}` for {architecture}.", nearest(name, valid, "key"))
    return config


def check_declared(model: ModelConfig, folder: str | Path) -> None:
    """That a folder holds the shape which a recipe declares of it, where it declares one.

    What was planned with is what is trained: raises `ConfigError` for the first key of `model.config` that the
    folder's own config has another value for, and for another architecture.
    """
    if not model.architecture:
        return
    declared, found = config_of_keys(model.architecture, model.config), AutoConfig.from_pretrained(folder)
    if found.model_type != model.architecture:
        raise ConfigError(
            f"`model.path` {model.path} is of the architecture {found.model_type}, but `model.architecture` declares "
            f"{model.architecture}.",
            f"Set `model.architecture={found.model_type}` and its `model.config`, or remove both.",
        )
    for name in model.config:
        ours, theirs = getattr(declared, name, None), getattr(found, name, None)
        if ours != theirs:
            raise ConfigError(
                f"`model.config.{name}` declares {ours!r}, but {model.path} has {theirs!r}.",
                f"Set `model.config.{name}` to that, or remove it.",
            )
