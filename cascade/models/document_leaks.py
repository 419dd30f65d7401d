"""Does a document see the one before it in its row? Tried out on the model that is to be packed, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cascade.errors import EngineError

_FIRST, _SECOND = 23, 17  # tokens of the two documents of a row: more than kernels of convolutions have
_ROUNDING = {torch.float32: 0.01, torch.bfloat16: 0.1}  # of what a leak of the whole first document amounts to


@torch.no_grad()
def require_documents_apart(log_probs: Callable[..., Any], model: Any) -> None:
    """Raises `EngineError` when another first document changes log-probs in the second one of its row.

    Not every architecture of transformers takes documents from `position_ids`: some build their masks without them,
    some mix neighbouring tokens in other layers, and none says so. One forward pass over four short rows tells; where
    `model` is sharded, a collective one.

    Args:
        log_probs: (input_ids, position_ids, loss_mask) -> (log-probs, entropy), [B, T] each, computed by `model`.
        model: the transformers model; it is in evaluation mode meanwhile.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    first = torch.randint(0, vocabulary, (2, _FIRST), generator=generator)
    second = torch.randint(0, vocabulary, (1, _SECOND), generator=generator).expand(2, -1)
    rows = torch.cat([first, second], 1).repeat(2, 1)  # two packed ones, and the same two as one document each
    positions = torch.arange(_FIRST + _SECOND).repeat(4, 1)
    positions[:2, _FIRST:] = torch.arange(_SECOND)
    mask = torch.zeros(rows.shape)
    mask[:, _FIRST + 1 :] = 1  # the second document's first token is predicted by nothing
    device, training = next(model.parameters()).device, model.training
    model.eval()  # dropout would differ between the rows
    values = log_probs(rows.to(device), positions.to(device), mask.to(device))[0]
    model.train(training)
    packed, whole = (float((one - other).abs().max()) for one, other in (values[:2], values[2:]))
    if packed > max(1e-4, _ROUNDING.get(model.dtype, 0.1) * whole):
        raise EngineError(
            f"In {type(model).__name__} a packed document sees the one before it: its log-probs change by "
            f"{packed:.1e} with the other's tokens ({whole:.1e} if both were one).",
            "Set `policy.packing=false`.",
        )
