"""Where reasoning ends and the answer begins."""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class Parts(NamedTuple):
    """A turn of the model in two, e.g. `Parts("2+2", "4")`."""

    reasoning: str
    answer: str  # what is judged


def split_reasoning(text: str, opened: bool = False) -> Parts:
    """The reasoning of a turn and its answer, which is what stands after the last `</think>`.

    Reasoning that never ended leaves no answer. Text without any mark of reasoning is all answer.

    Args:
        opened: the prompt ended with `<think>`, so that the turn begins within the reasoning.
    """
    before, closed, after = text.rpartition(CLOSE)
    if closed:
        return Parts(before.strip().removeprefix(OPEN).strip(), after.strip())
    if opened or text.lstrip().startswith(OPEN):
        return Parts(text.strip().removeprefix(OPEN).strip(), "")
    return Parts("", text)
