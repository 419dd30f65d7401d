"""Weights go through in buckets: the same bytes, and never more of them in memory than said."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch

from cascade.serving.buckets import buckets

FLOAT = 4


def stream(*sizes: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of so many floats, each overwritten when the next is asked for, as a gathered shard is."""
    for i, size in enumerate(sizes):
        tensor = torch.full((size,), float(i))
        yield f"w{i}", tensor
        tensor.fill_(float("nan"))


@pytest.mark.parametrize(
    ("limit", "expected"),
    (
        (10, [["w0", "w1"], ["w2"], ["w3"], ["w4", "w5"]]),  # w2 alone is too large
        (1, [["w0"], ["w1"], ["w2"], ["w3"], ["w4"], ["w5"]]),
        (1000, [["w0", "w1", "w2", "w3", "w4", "w5"]]),
    ),
)
def test_buckets_are_cut_at_the_limit_and_keep_every_byte(limit: int, expected: list[list[str]]) -> None:
    found = list(buckets(stream(6, 4, 30, 8, 5, 5), limit * FLOAT))
    assert [[name for name, _ in bucket] for bucket in found] == expected
    for i, (_, tensor) in enumerate(pair for bucket in found for pair in bucket):
        assert torch.equal(tensor, torch.full_like(tensor, float(i)))


def test_views_become_contiguous_copies_of_their_dtype() -> None:
    whole = torch.arange(24, dtype=torch.bfloat16).view(2, 3, 4)
    ((name, copy),) = next(buckets(iter([("w", whole[:, 1].t())]), 1))
    assert name == "w"
    assert copy.is_contiguous()
    assert copy.dtype == torch.bfloat16
    assert torch.equal(copy, whole[:, 1].t())
    assert copy.untyped_storage().nbytes() == copy.nbytes  # and not the storage that it was a view of


def test_keep_device_keeps_it() -> None:
    ((_, copy),) = next(buckets(iter([("w", torch.empty(3, device="meta"))]), 1, keep_device=True))
    assert copy.device.type == "meta"


def test_no_weights_make_no_bucket() -> None:
    assert list(buckets(iter([]), 1)) == []


def test_a_caller_who_drops_a_bucket_has_one_in_memory() -> None:
    sizes, limit, alive = [3, 3, 3, 12, 1, 5, 4], 8 * FLOAT, 0
    peaks = []

    def gone(size: int) -> None:
        nonlocal alive
        alive -= size

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        for pair in stream(*sizes):
            peaks.append(alive)
            yield pair

    cut = buckets(counted(), limit)
    while (bucket := next(cut, None)) is not None:
        for _, tensor in bucket:
            alive += tensor.nbytes
            weakref.finalize(tensor, gone, tensor.nbytes)
            del tensor
        assert alive <= max(limit, 12 * FLOAT)
        del bucket
        assert alive == 0
    assert max(peaks) == 0  # the next bucket is begun when the last is gone
