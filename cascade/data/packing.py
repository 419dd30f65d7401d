"""Documents into rows, rows onto ranks: the same number of equally full micro-batches on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cascade.errors import DataError
from cascade.types import PackedBatch, TrainingSequence

PackedRow = list[int]
"""Indices of the documents of a row, in order."""

_SHORTEST_ROW = 2  # tokens of a micro-batch without documents: shifting it by one must leave a prediction


def pack(
    sequences: Sequence[TrainingSequence],
    sequence_weights: Sequence[float],
    *,
    row_tokens: int,
    rows_per_batch: int,
    ranks: int,
    rank: int,
    pad_id: int,
    one_per_row: bool,
) -> list[PackedBatch]:
    """The micro-batches of `rank`; every rank gets the same number of them with the same number of rows.

    Documents are put into rows of at most `row_tokens` tokens by first-fit-decreasing, or one a row when `one_per_row`
    is set, for models that cannot keep documents apart. Rows are sorted by tokens and dealt so that
    the k-th micro-batch has similar lengths on all ranks and the ranks' totals differ by less than one row. Ranks that
    lack a row get an empty one. A micro-batch is cut to its longest row; the last one may have fewer rows than
    `rows_per_batch`. The result depends on nothing but the arguments.

    `sequence_weights[i]` is the share of the step's loss that each trained token of sequence `i` carries, so that
    `token_weight[b, t] = loss_mask[b, t] * sequence_weights[i]`.

    `position_ids` restart at 0 where a document starts, padding included; that, and never an attention mask, is how
    `LogProbModel` tells documents apart.

    Raises `DataError` for a sequence longer than `row_tokens` or whose fields disagree in length, and for sizes that
    are not positive.
    """
    _require_sizes(sequences, sequence_weights, row_tokens, rows_per_batch, ranks, rank)
    for index, sequence in enumerate(sequences):
        _require_sequence(index, sequence, row_tokens)
    lengths = [len(sequence.token_ids) for sequence in sequences]
    rows = [[index] for index in range(len(lengths))] if one_per_row else _first_fit_decreasing(lengths, row_tokens)
    own = _deal(rows, lengths, ranks)[rank]
    return [
        _batch(own[start : start + rows_per_batch], sequences, sequence_weights, pad_id)
        for start in range(0, len(own), rows_per_batch)
    ]


def pack_pairs(
    sequences: Sequence[TrainingSequence],
    sequence_weights: Sequence[float],
    *,
    row_tokens: int,
    rows_per_batch: int,
    ranks: int,
    rank: int,
    pad_id: int,
) -> list[PackedBatch]:
    """What `pack` does for sequences of which 2i and 2i + 1 belong together: rows 2k and 2k + 1 of one micro-batch.

    One document a row, and at least one pair a micro-batch, also where `rows_per_batch` is 1. A rank that lacks a pair
    gets two empty rows. Raises `DataError` as `pack` does.
    """
    _require_sizes(sequences, sequence_weights, row_tokens, rows_per_batch, ranks, rank)
    for index, sequence in enumerate(sequences):
        _require_sequence(index, sequence, row_tokens)
    lengths = [len(sequence.token_ids) for sequence in sequences]
    own = _deal([[index, index + 1] for index in range(0, len(lengths), 2)], lengths, ranks)[rank]
    pairs = max(1, rows_per_batch // 2)  # of a micro-batch
    rows = [[[index] for index in pair] or [[], []] for pair in own]
    return [
        _batch([row for pair in rows[start : start + pairs] for row in pair], sequences, sequence_weights, pad_id)
        for start in range(0, len(rows), pairs)
    ]


def _first_fit_decreasing(lengths: Sequence[int], row_tokens: int) -> list[PackedRow]:
    """Longest document first, each into the first row with room; ties in the order of the documents."""
    rows: list[PackedRow] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            rows.append([index])
            room.append(row_tokens - lengths[index])
        else:
            rows[place].append(index)
            room[place] -= lengths[index]
    return rows


def _deal(rows: Sequence[PackedRow], lengths: Sequence[int], ranks: int) -> list[list[PackedRow]]:
    """Rows for every rank, equally many, longest first: of each `ranks` rows the longest goes to the least loaded."""
    used = [sum(lengths[index] for index in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda row: (-used[row], row))
    dealt: list[list[PackedRow]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for start in range(0, len(order), ranks):
        block = order[start : start + ranks]
        for place, receiver in enumerate(sorted(range(ranks), key=lambda candidate: (load[candidate], candidate))):
            filled = place < len(block)
            dealt[receiver].append(rows[block[place]] if filled else [])
            load[receiver] += used[block[place]] if filled else 0
    return dealt


def _batch(
    rows: Sequence[PackedRow], sequences: Sequence[TrainingSequence], weights: Sequence[float], pad_id: int
) -> PackedBatch:
    """One micro-batch `[B, T]`, T the tokens of its longest row."""
    used = [sum(len(sequences[index].token_ids) for index in row) for row in rows]
    shape = (len(rows), max(_SHORTEST_ROW, *used))  # [B, T]
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    sequence_index = torch.full(shape, -1, dtype=torch.int64)
    loss_mask, sampler, advantages, teacher, reference, token_weight = (torch.zeros(shape) for _ in range(6))
    top_ids, top_log_probs = _top_tensors(sequences, shape)
    context_weight, all_tokens = torch.zeros(shape), sum(len(sequence.token_ids) for sequence in sequences)
    routed_experts = _routed_tensor(sequences, shape)
    for b, row in enumerate(rows):
        start = 0
        for index in row:
            sequence = sequences[index]
            here = (b, slice(start, start := start + len(sequence.token_ids)))
            mask = torch.tensor(sequence.loss_mask, dtype=torch.float32)
            input_ids[here] = torch.tensor(sequence.token_ids)
            position_ids[here] = torch.arange(len(mask))
            sequence_index[here] = index
            loss_mask[here] = mask
            advantages[here] = mask * sequence.advantage
            token_weight[here] = mask * weights[index]
            context_weight[here] = 1.0 / all_tokens
            sampler[here] = _log_probs(sequence.sampler_log_probs, mask)
            teacher[here] = _log_probs(sequence.teacher_log_probs, mask)
            reference[here] = _log_probs(sequence.reference_log_probs, mask)
            if sequence.teacher_top is not None and top_ids is not None and top_log_probs is not None:
                top_ids[here][mask.bool()], top_log_probs[here][mask.bool()] = sequence.teacher_top
            if sequence.routed_experts is not None and routed_experts is not None:
                routed_experts[here][: len(sequence.routed_experts)] = sequence.routed_experts.to(torch.int16)
        position_ids[b, start:] = torch.arange(shape[1] - start)
    return PackedBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        sequence_index=sequence_index,
        loss_mask=loss_mask,
        sampler_log_probs=sampler,
        advantages=advantages,
        teacher_log_probs=teacher,
        reference_log_probs=reference,
        token_weight=token_weight,
        teacher_top_ids=top_ids,
        teacher_top_log_probs=top_log_probs,
        context_weight=context_weight,
        routed_experts=routed_experts,
    )


def _top_tensors(
    sequences: Sequence[TrainingSequence], shape: tuple[int, int]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Room for the teachers' K likeliest tokens, `[B, T, K]` ids and log-probs; None where no sequence has them."""
    k = next((sequence.teacher_top[0].shape[1] for sequence in sequences if sequence.teacher_top is not None), None)
    if k is None:
        return None, None
    return torch.zeros(*shape, k, dtype=torch.int64), torch.zeros(*shape, k)


def _routed_tensor(sequences: Sequence[TrainingSequence], shape: tuple[int, int]) -> torch.Tensor | None:
    """Room for the experts chosen at sampling, `[B, T, L, K]`, none recorded yet; None where no sequence has them."""
    records = [sequence.routed_experts for sequence in sequences if sequence.routed_experts is not None]
    if not records:
        return None
    if len({tuple(record.shape[1:]) for record in records}) > 1:
        raise DataError("Sequences have experts of models with different layers.", "Sample all with one model.")
    return torch.full((*shape, *records[0].shape[1:]), -1, dtype=torch.int16)


def _log_probs(values: Sequence[float], mask: torch.Tensor) -> torch.Tensor:
    """`[T]` float32 nats; zeros when there are none."""
    return torch.tensor(values, dtype=torch.float32) if values else torch.zeros_like(mask)


def _require_sizes(
    sequences: Sequence[TrainingSequence],
    sequence_weights: Sequence[float],
    row_tokens: int,
    rows_per_batch: int,
    ranks: int,
    rank: int,
) -> None:
    if min(row_tokens, rows_per_batch, ranks) < 1 or not 0 <= rank < ranks:
        raise DataError(
            f"Packing was asked for row_tokens={row_tokens}, rows_per_batch={rows_per_batch}, rank {rank} of {ranks}.",
            "Give sizes of at least 1 and a rank below the number of ranks.",
        )
    if len(sequences) != len(sequence_weights):
        raise DataError(
            f"There are {len(sequences)} sequences and {len(sequence_weights)} weights.",
            "Give one weight for every sequence.",
        )


def _require_sequence(index: int, sequence: TrainingSequence, row_tokens: int) -> None:
    tokens = len(sequence.token_ids)
    if not 0 < tokens <= row_tokens:
        raise DataError(
            f"Sequence {index} has {tokens} tokens and a row holds 1 to {row_tokens}.",
            "Raise the row size, or filter or shorten the sequence.",
        )
    optional = (sequence.sampler_log_probs, sequence.teacher_log_probs, sequence.reference_log_probs)
    lengths = [len(sequence.loss_mask), *(len(values) for values in optional if values)]
    if any(length != tokens for length in lengths):
        raise DataError(
            f"Sequence {index} has {tokens} tokens and per-token fields of {lengths} values.",
            "Give one mask value and, where there are log-probs, one log-prob for every token.",
        )
    if sequence.routed_experts is not None and len(sequence.routed_experts) > tokens:
        raise DataError(
            f"Sequence {index} has {tokens} tokens and recorded experts of {len(sequence.routed_experts)}.",
            "Record the experts of its own tokens.",
        )
    if sequence.loss_mask[0] or not set(sequence.loss_mask) <= {0, 1}:
        raise DataError(
            f"The loss mask of sequence {index} trains its first token or holds a value other than 0 and 1.",
            "Mask the first token, which nothing predicts, and use 0 and 1 only.",
        )
