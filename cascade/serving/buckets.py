"""A stream of weights cut into buckets of bounded size: what exists twice while a model is published."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Bucket = list[tuple[str, torch.Tensor]]


def buckets(
    weights: Iterator[tuple[str, torch.Tensor]], limit_bytes: int, *, keep_device: bool = False
) -> Iterator[Bucket]:
    """The same tensors in the same order, copied, in lists of at most `limit_bytes` each.

    A tensor larger than the limit is a bucket of its own. Every tensor is copied before the next is asked for, so a
    gathered shard may be freed by then. A caller who drops a bucket (`del`) before asking for the next has one in
    memory, not two.

    Args:
        weights: names and tensors, which may be views or transient.
        limit_bytes: at least 1.
        keep_device: copies stay where the tensors are (transports between GPUs); default: contiguous on the CPU.
    """
    held: list[Bucket] = [[]]  # empty while the caller has the bucket
    size = 0
    for name, tensor in weights:
        if size and size + tensor.nbytes > limit_bytes:
            yield held.pop()
            held, size = [[]], 0
        held[0].append((name, _copied(tensor, tensor.device if keep_device else torch.device("cpu"))))
        size += tensor.nbytes
    if held[0]:
        yield held.pop()


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device).copy_(tensor.detach())
