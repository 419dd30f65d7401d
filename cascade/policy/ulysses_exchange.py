"""The exchanges between processes that share a row's tokens: tokens for heads, heads for tokens, and the whole row.

Dimensions: B rows, T tokens of a row, N processes of the group, F features of one process's share of heads.
Every process calls the same exchanges in the same order, in the backward pass too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

Trade = Callable[[torch.Tensor, dist.ProcessGroup], torch.Tensor]


def tokens_to_heads(shares: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """All tokens of this process's share of heads: [B, T, F] from [B, T/N, N, F], share n being process n's."""
    return _Exchange.apply(shares, group, _to_heads, _to_tokens)


def heads_to_tokens(share: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The inverse of `tokens_to_heads`: [B, T/N, N, F] from [B, T, F]."""
    return _Exchange.apply(share, group, _to_tokens, _to_heads)


def whole_row(part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The parts of all processes end to end: [B, T, ...] from [B, T/N, ...].

    The backward pass keeps the gradient of the own part, without a collective: every process computes the same loss
    from the whole row, and the gradients of all processes are summed by whoever sums those of the parameters.
    """
    return _WholeRow.apply(part, group)


class _Exchange(torch.autograd.Function):
    """`there(tensor, group)`, and `back(grad, group)` in the backward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup, there: Trade, back: Trade
    ) -> torch.Tensor:
        ctx.group, ctx.back = group, back
        return there(tensor, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return ctx.back(grad, ctx.group), None, None, None


class _WholeRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:  # type: ignore[override]
        ctx.rank, ctx.tokens = group.rank(), part.shape[1]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return grad.narrow(1, ctx.rank * ctx.tokens, ctx.tokens), None


def _to_heads(shares: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    received = _all_to_all(shares.permute(2, 0, 1, 3), group)  # [N, B, T/N, F], from process n its tokens
    return received.transpose(0, 1).flatten(1, 2)


def _to_tokens(share: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    received = _all_to_all(share.unflatten(1, (group.size(), -1)).transpose(0, 1), group)  # from process n its heads
    return received.permute(1, 2, 0, 3)


def _all_to_all(parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Part n goes to process n; what process n sent stands at n. [N, ...] both."""
    sent = parts.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received
