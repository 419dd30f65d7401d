"""Log-probs of whole sequences, by whatever answers for one micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.data.packing import pack
from cascade.types import PackedBatch, TrainingSequence


def whole_batches(sequences: Sequence[TrainingSequence], packing: PolicyConfig, pad_id: int) -> Iterator[PackedBatch]:
    """The micro-batches of all the sequences, on this process's device: none is left to other ranks."""
    batches = pack(
        sequences,
        [1.0] * len(sequences),
        row_tokens=packing.row_tokens,
        rows_per_batch=packing.rows_per_micro_batch,
        ranks=1,
        rank=0,
        pad_id=pad_id,
        one_per_row=not packing.packing,
    )
    return (batch.to(parallel.device()) for batch in batches)


@torch.no_grad()
def score_sequences(
    log_probs: Callable[[PackedBatch], torch.Tensor],
    sequences: Sequence[TrainingSequence],
    packing: PolicyConfig,
    pad_id: int,
) -> list[list[float]]:
    """The log-prob of every loss token of every sequence, in the order given; 0 at the other tokens.

    `log_probs`: micro-batch -> [B, T] float32 nats.
    """
    scores = [[0.0] * len(sequence.token_ids) for sequence in sequences]
    for batch in whole_batches(sequences, packing, pad_id):
        at = batch.loss_mask.bool()
        places = zip(batch.sequence_index[at].tolist(), batch.position_ids[at].tolist(), strict=True)
        for (sequence, position), value in zip(places, log_probs(batch)[at].tolist(), strict=True):
            scores[sequence][position] = value
    return scores
