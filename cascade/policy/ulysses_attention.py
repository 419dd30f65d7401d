"""Ulysses attention for packed rows (Jacobs et al. 2023, arXiv:2309.14509), as an attention function of transformers.

Each process holds all heads of a slice of the row's tokens. Around the attention kernel the processes exchange, so that
each has all tokens of a share of the heads; the kernel sees whole documents and needs to know nothing of this.

The function is registered beside transformers' own ones under a name that only the policy's model asks for: a teacher
or a rollout copy in the same process goes on with plain kernels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cascade.errors import EngineError
from cascade.policy.sharded_rows import ShardedRow
from cascade.policy.ulysses_exchange import heads_to_tokens, tokens_to_heads

NAME = "cascade_ulysses"
MEANINGLESS = {"position_ids", "seq_idx"}
"""Tensors that layers pass on and that say no more than the row does."""


def use_ulysses(model: Any) -> None:
    """Makes the attention layers of this one model ask for `ulysses_attention`.

    Raises `EngineError` for an architecture whose attention is not replaceable.
    """
    transformers.AttentionInterface.register(NAME, ulysses_attention)
    model.set_attn_implementation(NAME)
    if model.config.get_text_config()._attn_implementation != NAME:
        raise EngineError(
            f"The attention of {type(model).__name__} cannot be replaced, which `policy.sequence_parallel` needs.",
            "Set `policy.sequence_parallel=1`.",
        )


def ulysses_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sharded_row: ShardedRow | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside the documents of a row of which every process of a group holds a slice.

    Args:
        module: the attention layer.
        query, key, value: [B, H, T/N, D], of a slice; key and value may have fewer heads than the query has.
        sharded_row: the row that they are a slice of; the model hands it on from `LogProbModel`.
        more: what layers pass beside; of no meaning to a causal kernel over whole documents unless it is a tensor.

    Returns:
        [B, T/N, H, D] as transformers' own attention functions, and no weights.

    Raises `EngineError` where a layer asks for what this function would drop.
    """
    if sharded_row is None:
        raise EngineError(
            f"{type(module).__name__} does not hand keyword arguments on, which `policy.sequence_parallel` needs.",
            "Set `policy.sequence_parallel=1`.",
        )
    _require_plain(module, attention_mask, sliding_window, more)
    group, size = sharded_row.group, sharded_row.size
    copies = math.lcm(key.shape[1], size) // key.shape[1]
    if copies > 1:  # autograd sums the gradients of the copies
        key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
    parts = [_by_process(part, size) for part in (query, key, value)]
    widths = [part.shape[-1] for part in parts]
    exchanged = tokens_to_heads(torch.cat(parts, -1), group).split(widths, -1)
    depths = [part.shape[-1] for part in (query, key, value)]
    query, key, value = (p.unflatten(-1, (-1, d)).transpose(1, 2) for p, d in zip(exchanged, depths, strict=True))
    options = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
    options = {name: option for name, option in options.items() if option is not None}
    output = _attend(module, query, key, value, sharded_row, options)  # [B, T, H/N, D]
    return heads_to_tokens(output.flatten(2), group).flatten(2).unflatten(-1, (-1, output.shape[-1])), None


def _by_process(heads: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T/N, N, H/N * D] from [B, H, T/N, D]: consecutive heads go to one process."""
    return heads.transpose(1, 2).unflatten(2, (size, -1)).flatten(3)


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: ShardedRow, options: dict[str, Any]
) -> torch.Tensor:
    """The kernel of `policy.attention` over all tokens of a share of heads; [B, H/N, T, D] -> [B, T, H/N, D]."""
    layer = SimpleNamespace(  # what kernels read of a layer, for this share of its heads
        num_key_value_groups=query.shape[1] // key.shape[1],
        is_causal=True,
        training=module.training,
        layer_idx=getattr(module, "layer_idx", None),
        config=SimpleNamespace(_attn_implementation=row.kernel, _is_quantized=False, dtype=value.dtype),
    )
    if row.kernel.startswith("flash"):
        kernel = ALL_ATTENTION_FUNCTIONS[row.kernel]
        flat = [heads.transpose(0, 1).flatten(1, 2).unsqueeze(0) for heads in (query, key, value)]  # [1, H/N, B*T, D]
        output, _ = kernel(layer, *flat, None, **row.document_lengths, **options)
        return output.view(query.shape[0], query.shape[2], *output.shape[2:])
    mask = row.attention_mask(options.get("sliding_window"))
    if row.kernel == "eager":
        # An additive mask. Eager attention without one would not even be causal.
        mask = _additive(row.block_mask(options.get("sliding_window")), query.dtype)
        kernel = _eager_kernel(module)
    else:
        kernel = ALL_ATTENTION_FUNCTIONS[row.kernel]
    output, _ = kernel(layer, query, key, value, mask, **options)
    return output


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _eager_kernel(module: Any) -> Callable[..., Any]:
    """Every architecture of transformers has an `eager_attention_forward` of its own."""
    return sys.modules[type(module).__module__].eager_attention_forward


def _require_plain(module: Any, mask: Any, sliding_window: int | None, more: dict[str, Any]) -> None:
    """Raises `EngineError` for a layer that wants a mask, a window or tensors that the kernels would not be given."""
    tensors = [name for name, value in more.items() if isinstance(value, torch.Tensor) and name not in MEANINGLESS]
    kinds = getattr(module.config, "layer_types", None) or []
    index = getattr(module, "layer_idx", None)
    kind = kinds[index] if index is not None and index < len(kinds) else ""
    if mask is not None or tensors or ("sliding" in kind and sliding_window is None):
        wanted = ", ".join(tensors) or (
            "an attention mask" if mask is not None else "a window that it does not pass on"
        )
        raise EngineError(
            f"{type(module).__name__} attends with {wanted}, which is not supported with `policy.sequence_parallel`.",
            "Set `policy.sequence_parallel=1`.",
        )
