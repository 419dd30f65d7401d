"""Prompts that are for evaluation only, recognised by hash: IFEval's 541 and IFBench's 294."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import DataError
from cascade.types import Message, Row

HASHES = Path(__file__).parent / "held_out.txt"
SHOWN = 10  # rows that a message lists
_BETWEEN = re.compile(r"[\W_]+")


def prompt_hash(text: str) -> str:
    """What a prompt is known by, whatever its case, white space and punctuation, e.g. `3f2a9c0d51e7b846`."""
    words = _BETWEEN.sub(" ", text.lower()).strip()
    return hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()[:16]


def is_held_out(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a message of the user is a prompt of the evaluation sets."""
    known = _hashes()
    return any(
        prompt_hash(str(message.get("content") or "")) in known for message in messages if message.get("role") == "user"
    )


def held_out_of(rows: Iterable[Row], messages: Callable[[Row], Sequence[Message]]) -> list[str]:
    """The ids of the rows whose prompt is for evaluation only, in order.

    Args:
        messages: the prompt of a row, e.g. the environment's own `messages`.
    """
    return [row.id for row in rows if is_held_out(messages(row))]


def refuse_held_out(name: str, rows: Iterable[Row], messages: Callable[[Row], Sequence[Message]]) -> None:
    """Raises `DataError` naming the training rows of an environment whose prompts are for evaluation only."""
    if found := held_out_of(rows, messages):
        listed = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        raise DataError(
            f"{len(found)} training rows of {name} are evaluation prompts of IFEval or IFBench: {listed}.",
            "Take them out of its training source.",
        )


@functools.cache
def _hashes() -> frozenset[str]:
    return frozenset(HASHES.read_text(encoding="ascii").split())
