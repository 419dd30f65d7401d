"""Pairs reach the model as neighbours, each side with one token at which its reward is read."""

from __future__ import annotations

import random

import pytest
import torch

from cascade.data.packing import pack_pairs
from cascade.data.pairs import conversation_length, rewarded
from cascade.errors import DataError
from cascade.types import PackedBatch, TrainingSequence

PAD = 0


def pairs(count: int, seed: int = 0) -> list[TrainingSequence]:
    """Sides 2i and 2i + 1 of `count` pairs; every token of pair i is i + 1, but the last, which is 90 or 91."""
    rng = random.Random(seed)
    return [
        rewarded([1 + i] * rng.randint(1, 12) + [90 + side], PAD, "preference") for i in range(count) for side in (0, 1)
    ]


def batches(sides: list[TrainingSequence], *, rows: int, ranks: int, rank: int) -> list[PackedBatch]:
    weights = [2.0 / len(sides)] * len(sides)
    return pack_pairs(sides, weights, row_tokens=16, rows_per_batch=rows, ranks=ranks, rank=rank, pad_id=PAD)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_pair_is_two_neighbouring_rows_on_one_rank_and_its_weights_sum_to_one(
    rows: int, ranks: int, count: int
) -> None:
    sides = pairs(count)
    of_ranks = [batches(sides, rows=rows, ranks=ranks, rank=rank) for rank in range(ranks)]
    assert len({len(own) for own in of_ranks}) == 1
    seen, weight = [], 0.0
    for own in of_ranks:
        for batch in own:
            assert len(batch.input_ids) in range(2, max(2, rows) + 1, 2)
            indices = batch.sequence_index[:, 0].tolist()
            for chosen, rejected in zip(indices[::2], indices[1::2], strict=True):
                assert (chosen, rejected) == (-1, -1) or (chosen % 2 == 0 and rejected == chosen + 1)
            seen += [index for index in indices if index >= 0]
            weight += batch.token_weight.sum(1)[::2].sum().item()
    assert sorted(seen) == list(range(2 * count))
    assert weight == pytest.approx(1.0)


def test_the_one_masked_token_is_the_last_of_its_document() -> None:
    (batch,) = batches(pairs(3), rows=8, ranks=1, rank=0)
    marked = batch.loss_mask.bool()
    assert marked.sum(1).tolist() == [1] * 6
    assert batch.input_ids[marked].tolist() == [90, 91] * 3
    last = (batch.sequence_index >= 0).sum(1) - 1
    assert torch.equal(marked.float().argmax(1), last)


def test_a_rank_without_a_pair_gets_two_empty_rows() -> None:
    (batch,) = batches(pairs(1), rows=8, ranks=2, rank=1)
    assert batch.loss_mask.sum() == 0
    assert batch.input_ids.shape == (2, 2)


def test_a_side_that_no_row_holds_is_an_error() -> None:
    with pytest.raises(DataError, match="has 17 tokens"):
        batches([rewarded([1] * 17, PAD), rewarded([1, 2], PAD)], rows=2, ranks=1, rank=0)


def test_pad_tokens_at_the_end_are_left_off_and_those_before_stay() -> None:
    assert rewarded([5, PAD, 6, PAD, PAD], PAD) == TrainingSequence((5, PAD, 6), (0, 0, 1))


@pytest.mark.parametrize("tokens", [[], [5], [PAD, PAD, PAD], [5, PAD]])
def test_nothing_to_read_is_an_error(tokens: list[int]) -> None:
    with pytest.raises(DataError, match="less than two tokens"):
        rewarded(tokens, PAD)


def test_length_is_of_what_was_said_and_thought() -> None:
    said = {"role": "assistant", "content": "four", "reasoning_content": "2+2"}
    assert conversation_length([{"role": "user", "content": "hi"}, said]) == 9  # type: ignore[list-item]
    assert conversation_length("text") == 4
