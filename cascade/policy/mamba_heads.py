"""Mamba-2 layers on slices of rows: around convolution and scan the processes exchange tokens for heads, as in Ulysses.

Convolution, scan and gated norm work on every head, or group of heads, by itself. So after the exchange each process
runs them over whole documents with its share of heads and groups, which is exact; the projections stay on the slice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from cascade.policy.sharded_rows import ShardedRow
from cascade.policy.sliceable_models import mamba_mixers
from cascade.policy.ulysses_exchange import heads_to_tokens, tokens_to_heads


def share_mamba_heads(model: Any, size: int) -> None:
    """Has the Mamba-2 layers of this one model run on slices of rows; a model without any is left as it is.

    `size` divides their heads and groups.
    """
    for mixer in mamba_mixers(model).values():
        # `forward` may be an instance's own already: the one that keeps packed documents apart.
        mixer.forward = functools.partial(_mix, mixer, mixer.forward.__func__)


def _mix(
    mixer: Any,
    forward: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    cache_params: Any = None,
    attention_mask: torch.Tensor | None = None,
    *,
    sharded_row: ShardedRow | None = None,
    **keywords: Any,
) -> torch.Tensor:
    """The forward pass of a mixer on slices, [B, T/N, D] -> [B, T/N, D]; `keywords` speak of the whole rows."""
    if sharded_row is None:
        return forward(mixer, hidden_states, cache_params, attention_mask, **keywords)
    group, size = sharded_row.group, sharded_row.size
    # Gate, x, B, C and dt: each by head or by group, so that consecutive features go to one process.
    widths = [*[mixer.intermediate_size] * 2, *[mixer.n_groups * mixer.ssm_state_size] * 2, mixer.num_heads]
    parts = mixer.in_proj(hidden_states).split(widths, -1)
    shares = torch.cat([part.unflatten(-1, (size, -1)) for part in parts], -1)  # [B, T/N, N, F]
    mixed = forward(_share(mixer, group.rank(), size), tokens_to_heads(shares, group), **keywords)
    return mixer.out_proj(heads_to_tokens(mixed, group).flatten(2))


def _share(mixer: Any, rank: int, size: int) -> Any:
    """The mixer with a share of its heads and groups, between the projections: those are the identity.

    Of the mixer's own class, which its forward pass looks at, but no module: nothing is registered or hooked.
    """

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(size)[rank]

    heads, states = mixer.intermediate_size, mixer.n_groups * mixer.ssm_state_size
    weight, bias = (
        None if tensor is None else torch.cat([own(part) for part in tensor.split([heads, states, states])])
        for tensor in (mixer.conv1d.weight, mixer.conv1d.bias)
    )
    share = object.__new__(type(mixer))
    vars(share).update(
        {name: value for name, value in vars(mixer).items() if not name.startswith("_") and name != "forward"},
        num_heads=mixer.num_heads // size,
        n_groups=mixer.n_groups // size,
        intermediate_size=heads // size,
        conv_dim=mixer.conv_dim // size,
        A_log=own(mixer.A_log),
        D=own(mixer.D),
        dt_bias=own(mixer.dt_bias),
        conv1d=SimpleNamespace(weight=weight, bias=bias),
        norm=_GroupNorms(mixer.norm, own(mixer.norm.weight)),
        in_proj=_NoProjection(),
        out_proj=_NoProjection(),
    )
    return share


class _NoProjection:
    """Stands for a projection that happens elsewhere. A fused kernel reads that it has no weight, and leaves it out."""

    weight = bias = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class _GroupNorms:
    """The gated norm of some groups: the layer's own arithmetic with a share of its weight."""

    def __init__(self, norm: Any, weight: torch.Tensor) -> None:
        self.of = type(norm)
        self.weight, self.group_size, self.variance_epsilon = weight, norm.group_size, norm.variance_epsilon

    def __call__(self, hidden: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return self.of.forward(self, hidden, gate)
