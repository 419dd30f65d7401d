"""Preference pairs as what a reward model reads: how long a side is, and at which token its reward stands."""

from __future__ import annotations

from collections.abc import Sequence

from cascade.errors import DataError
from cascade.types import Message, TrainingSequence


def conversation_length(side: Sequence[Message] | str) -> int:
    """Characters of the contents and the reasoning of all messages, or of text."""
    if isinstance(side, str):
        return len(side)
    return sum(len(message.get(key) or "") for message in side for key in ("content", "reasoning_content"))


def rewarded(token_ids: Sequence[int], pad_id: int, domain: str = "") -> TrainingSequence:
    """A document whose last token, the only one in the mask, is where its reward is read.

    Pad tokens at the end are left off: the sequence classifiers of transformers read at the last token that is no pad
    token, so where a tokenizer pads with its end-of-turn token they would never read there.

    Raises `DataError` when nothing, or a single token, is left: the first token of a document is in no mask.
    """
    last = max((place for place, token in enumerate(token_ids) if token != pad_id), default=-1)
    if last < 1:
        raise DataError("A document to be rewarded has less than two tokens.", "Leave it out of the data.")
    return TrainingSequence(tuple(token_ids[: last + 1]), (0,) * last + (1,), domain=domain)
