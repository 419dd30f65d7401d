"""Packing neither loses, repeats nor reweights a token, and gives every rank the same work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.data.packing import pack
from cascade.errors import DataError
from cascade.types import TrainingSequence

PAD = 99


def sequence(length, first_token=0, **more):
    mask = tuple(int(t >= (length + 1) // 2) for t in range(length))
    return TrainingSequence(tuple(range(first_token, first_token + length)), (0, *mask[1:]), **more)


def pack_all(sequences, weights, *, ranks, row_tokens=16, rows_per_batch=2, one_per_row=False):
    return [
        pack(
            sequences,
            weights,
            row_tokens=row_tokens,
            rows_per_batch=rows_per_batch,
            ranks=ranks,
            rank=rank,
            pad_id=PAD,
            one_per_row=one_per_row,
        )
        for rank in range(ranks)
    ]


LENGTHS = st.lists(st.integers(1, 16), max_size=30)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_every_token_appears_once_in_order_and_weights_sum(lengths, ranks, rows_per_batch, one_per_row):
    sequences = [sequence(length, first_token=100 * (index + 1)) for index, length in enumerate(lengths)]
    weights = [0.5 + index for index in range(len(lengths))]
    per_rank = pack_all(sequences, weights, ranks=ranks, rows_per_batch=rows_per_batch, one_per_row=one_per_row)
    batches = [batch for own in per_rank for batch in own]
    for index, expected in enumerate(sequences):
        found = [batch.input_ids[batch.sequence_index == index].tolist() for batch in batches]
        assert [tokens for tokens in found if tokens] == [list(expected.token_ids)]
    total = sum(float(batch.token_weight.sum()) for batch in batches)
    assert total == pytest.approx(sum(s.loss_tokens * w for s, w in zip(sequences, weights, strict=True)))
    padding = [batch.input_ids[batch.sequence_index == -1] for batch in batches]
    assert all(bool((tokens == PAD).all()) for tokens in padding)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_all_ranks_run_the_same_batches_with_similar_load(lengths, ranks, rows_per_batch, one_per_row):
    sequences = [sequence(length) for length in lengths]
    per_rank = pack_all(
        sequences, [1.0] * len(lengths), ranks=ranks, rows_per_batch=rows_per_batch, one_per_row=one_per_row
    )
    rows = [[batch.input_ids.shape[0] for batch in own] for own in per_rank]
    assert all(own == rows[0] for own in rows)
    loads = [sum(int((batch.sequence_index >= 0).sum()) for batch in own) for own in per_rank]
    assert max(loads) - min(loads) <= max(lengths, default=0) if one_per_row else max(loads) - min(loads) <= 16


@settings(deadline=None)
@given(LENGTHS, st.booleans())
def test_positions_restart_with_every_document_and_the_padding(lengths, one_per_row):
    sequences = [sequence(length) for length in lengths]
    for batch in pack_all(sequences, [1.0] * len(lengths), ranks=2, one_per_row=one_per_row)[1]:
        for positions, owners in zip(batch.position_ids.tolist(), batch.sequence_index.tolist(), strict=True):
            for t, (position, owner) in enumerate(zip(positions, owners, strict=True)):
                starts = t == 0 or owner != owners[t - 1]
                assert position == (0 if starts else positions[t - 1] + 1)


@given(LENGTHS)
def test_rows_are_trimmed_to_the_longest_of_their_batch(lengths):
    for batch in pack_all([sequence(length) for length in lengths], [1.0] * len(lengths), ranks=2)[0]:
        used = int((batch.sequence_index >= 0).sum(dim=1).max())
        assert batch.input_ids.shape[1] == max(2, used)


def test_first_fit_decreasing_fills_rows_as_by_hand():
    batches = pack_all([sequence(n) for n in (4, 8, 10, 6, 2, 2)], [1.0] * 6, ranks=1)[0]
    assert batches[0].sequence_index[:, ::2].tolist() == [[2, 2, 2, 2, 2, 3, 3, 3], [1, 1, 1, 1, 0, 0, 4, 5]]
    assert len(batches) == 1


def test_one_document_a_row():
    batch = pack_all([sequence(3), sequence(5)], [1.0, 1.0], ranks=1, one_per_row=True)[0][0]
    assert batch.sequence_index.tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, -1, -1]]


def test_missing_rows_are_empty_and_still_have_a_prediction():
    first, second = pack_all([sequence(5)], [1.0], ranks=2)
    assert first[0].input_ids.shape == (1, 5)
    empty = second[0]
    assert empty.input_ids.tolist() == [[PAD, PAD]]
    assert empty.position_ids.tolist() == [[0, 1]]
    assert empty.sequence_index.tolist() == [[-1, -1]]
    assert float(empty.token_weight.sum()) == 0


def test_per_token_fields_land_on_their_tokens():
    rollout = TrainingSequence(
        token_ids=(7, 8, 5, 2),
        loss_mask=(0, 0, 1, 1),
        sampler_log_probs=(0, 0, -0.5, -0.25),
        advantage=2.0,
        teacher_log_probs=(0, 0, -1.0, -2.0),
        reference_log_probs=(0, 0, -3.0, -4.0),
    )
    demonstration = TrainingSequence((1, 2, 3), (0, 1, 1))
    batch = pack_all([demonstration, rollout], [10.0, 0.5], ranks=1, row_tokens=8)[0][0]
    expected = {
        "input_ids": [7, 8, 5, 2, 1, 2, 3],
        "loss_mask": [0, 0, 1, 1, 0, 1, 1],
        "sampler_log_probs": [0, 0, -0.5, -0.25, 0, 0, 0],
        "advantages": [0, 0, 2, 2, 0, 0, 0],
        "teacher_log_probs": [0, 0, -1, -2, 0, 0, 0],
        "reference_log_probs": [0, 0, -3, -4, 0, 0, 0],
        "token_weight": [0, 0, 0.5, 0.5, 0, 10, 10],
    }
    for name, values in expected.items():
        assert getattr(batch, name).tolist() == [values], name
    assert batch.input_ids.dtype == batch.position_ids.dtype == batch.sequence_index.dtype == torch.int64
    assert batch.token_weight.dtype == batch.loss_mask.dtype == torch.float32


def test_nothing_to_pack_is_no_batches_on_every_rank():
    assert pack_all([], [], ranks=3) == [[], [], []]


def test_documents_that_cannot_be_packed_are_refused():
    with pytest.raises(DataError, match="Sequence 1 has 17 tokens and a row holds 1 to 16"):
        pack_all([sequence(3), sequence(17)], [1.0, 1.0], ranks=1)
    refused = {
        "holds 1 to 16": TrainingSequence((), ()),
        "fields of": TrainingSequence((1, 2), (0,)),
        "fields of .*3": TrainingSequence((1, 2), (0, 1), sampler_log_probs=(0.0, 0.0, 0.0)),
        "trains its first token": TrainingSequence((1, 2), (1, 1)),
        "other than 0 and 1": TrainingSequence((1, 2), (0, 2)),
    }
    for message, bad in refused.items():
        with pytest.raises(DataError, match=message):
            pack_all([bad], [1.0], ranks=1)
    with pytest.raises(DataError, match="1 sequences and 2 weights"):
        pack_all([sequence(2)], [1.0, 1.0], ranks=1)
    with pytest.raises(DataError, match="rank 2 of 2"):
        pack([], [], row_tokens=4, rows_per_batch=1, ranks=2, rank=2, pad_id=0, one_per_row=False)
