"""Widths of one block of a model, read from its parameters' shapes where they tell, else from the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cascade.errors import ConfigError

Parameters = Mapping[str, nn.Parameter]


def first(config: Any, *names: str, default: int = 0) -> Any:
    """The first of these keys that the config has a value for."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)


def attention_widths(config: Any, layer: int, parameters: Parameters) -> dict[str, int]:
    """heads, kv_heads, head_dim, value_dim, cache_width and window of an attention block."""
    heads = first(config, "num_attention_heads", "n_head", default=1)
    latent = first(config, "kv_lora_rank")
    if latent and _ending(parameters, "kv_b_proj.weight", "kv_a_proj_with_mqa.weight") is not None:
        rope = first(config, "qk_rope_head_dim")
        head_dim = first(config, "qk_nope_head_dim") + rope
        widths = {"kv_heads": heads, "head_dim": head_dim, "value_dim": first(config, "v_head_dim")}
        read = latent + rope + (first(config, "q_lora_rank") or 0)
        return {"heads": heads, **widths, "cache_width": latent + rope, "latent": read, "window": 0}
    head_dim = first(config, "head_dim", "attention_head_dim") or config.hidden_size // heads
    keys, queries = _ending(parameters, "k_proj.weight"), _ending(parameters, "q_proj.weight")
    kv_heads = first(config, "num_key_value_heads", default=heads)
    if keys is not None and len(keys) % head_dim == 0:
        kv_heads = len(keys) // head_dim
    if queries is not None and len(queries) == heads * head_dim:
        heads = len(queries) // head_dim
    fused = _ending(parameters, "qkv_proj.weight", "query_key_value.weight")  # values are a view of all three
    return {
        "latent": 0 if fused is None else len(fused) - kv_heads * head_dim,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "value_dim": head_dim,
        "cache_width": 2 * kv_heads * head_dim,
        "window": _window(config, layer),
    }


def mamba_widths(config: Any, layer: int, parameters: Parameters) -> dict[str, int]:
    """Widths of a block that carries a state along the sequence."""
    convolution = _ending(parameters, "conv1d.weight", "conv.weight")
    width, taps = (convolution.shape[0], convolution.shape[-1]) if convolution is not None else (0, 0)
    chunk = first(config, "chunk_size", "mamba_chunk_size", default=256)
    decay = _ending(parameters, "A_log")
    projections = [part for path, part in parameters.items() if ".in_proj" in path and path.endswith("weight")]
    projected = sum(len(part) for part in projections)
    common = {"convolution": taps, "convolution_width": width, "chunk": chunk, "projected": projected}
    if decay is not None and decay.dim() == 2:  # Mamba 1: a state for each channel
        return {"heads": decay.shape[0], "head_dim": 1, "state": decay.shape[1], "groups": 1, **common}
    if first(config, "linear_num_value_heads"):  # gated delta rule: a matrix of key by value for each head
        return {
            "heads": config.linear_num_value_heads,
            "head_dim": config.linear_value_head_dim,
            "state": config.linear_key_head_dim,
            "groups": config.linear_num_key_heads,
            **common,
        }
    if decay is None:
        return common  # a short convolution carries its taps and no other state
    return {
        "heads": decay.shape[0],
        "head_dim": first(config, "mamba_head_dim", "mamba_d_head", default=64),
        "state": first(config, "ssm_state_size", "mamba_d_state", "state_size", default=128),
        "groups": first(config, "n_groups", "mamba_n_groups", default=1),
        **common,
    }


def mixture_widths(config: Any, layer: int, parameters: Parameters, part_of: Mapping[str, str]) -> dict[str, Any]:
    """Widths of a mixture of experts; `part_of`: a parameter's name -> its kind.

    Raises `ConfigError` where the config does not say how many experts are chosen.
    """
    experts = {path: part for path, part in parameters.items() if part_of[path] == "routed_experts"}
    fused = [part for part in experts.values() if part.dim() == 3]
    count = fused[0].shape[0] if fused else first(config, "num_experts", "n_routed_experts", "num_local_experts")
    chosen = first(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "top_k")
    if not experts:
        raise ConfigError(
            f"A layer of {config.model_type} has a router, but no experts that are known as such.",
            "Teach `cascade.planning.parameter_kinds` how they are called.",
        )
    if not chosen or not count:
        raise ConfigError(
            f"The config of {config.model_type} does not say how many experts a token is sent to.",
            "Teach `cascade.planning.layer_widths.mixture_widths` the name of that key.",
        )
    routed = sum(part.numel() for part in experts.values())
    matrices = sum(part.numel() for path, part in experts.items() if part.dim() >= 2 and "bias" not in path)
    into = first(config, "moe_latent_size") or config.hidden_size
    gated = any("gate" in path for path in experts) or _fused_pair(fused)
    shared = sum(part.numel() for path, part in parameters.items() if "shared" in path and part.dim() == 2)
    return {
        "experts": count,
        "chosen": chosen,
        "routed": routed,
        "expert_width": matrices // (count * into * (3 if gated else 2)),
        "expert_input": into,
        "shared_width": shared // (config.hidden_size * (3 if gated else 2)),
        "gated": gated,
    }


def mlp_widths(config: Any, layer: int, parameters: Parameters) -> dict[str, Any]:
    """Hidden width of a dense feed-forward block, and whether it has a gate."""
    matrices = [part.numel() for part in parameters.values() if part.dim() == 2]
    projections = round(sum(matrices) / min(matrices))  # gate, up, down; a fused gate and up counts as two
    return {"width": min(matrices) // config.hidden_size, "gated": projections == 3}


def _fused_pair(fused: list[nn.Parameter]) -> bool:
    sizes = sorted(part.numel() for part in fused)
    return len(sizes) == 2 and sizes[1] == 2 * sizes[0]


def _window(config: Any, layer: int) -> int:
    """Tokens that the layer looks back; 0: all."""
    window = first(config, "sliding_window")
    kinds = getattr(config, "layer_types", None)
    if not window or (hasattr(config, "use_sliding_window") and not config.use_sliding_window):
        return 0
    return window if kinds is None or "sliding" in str(kinds[layer]) else 0


def _ending(parameters: Parameters, *ends: str) -> nn.Parameter | None:
    return next((part for path, part in parameters.items() if path.endswith(ends)), None)
