"""Training rows of instruction following from prompts that people bring, and gold answers of filler text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from cascade.environments.constraint_templates import TEMPLATES, draw_constraints
from cascade.environments.constraints import constraint, follows
from cascade.environments.filler_answer import draft, least_padding
from cascade.environments.held_out import is_held_out
from cascade.environments.records import messages_of
from cascade.errors import DataError
from cascade.types import Message

DRAWS = 40  # of constraints for one prompt, until a gold answer meets them all
PADDINGS = 16  # lengths that are tried upwards from the least


def constrained(record: Mapping[str, Any], *, ids: Sequence[str], counts: tuple[int, int], seed: int) -> dict[str, Any]:
    """A prompt as a row: constraints drawn by the seed and the prompt, worded at its end.

    What is drawn is kept only when an answer of filler text follows it, so no row contradicts itself.

    Args:
        record: `prompt`, `messages` (an answer at their end is left out), `responses_create_params` or `question`.
        ids: kinds to draw from, of `TEMPLATES`.
        counts: fewest and most constraints.

    Raises:
        DataError: the record has no prompt, the prompt is of IFEval's or IFBench's test, or nothing fits it.
    """
    messages = _asked(record)
    prompt = messages[-1].get("content", "")
    if is_held_out(messages):
        raise DataError(f"{prompt[:60]!r} is a prompt of IFEval or IFBench.", "Leave it out of training.")
    rng = random.Random(f"{seed}/{prompt}")
    count = rng.randint(*counts)
    for _ in range(DRAWS):
        drawn = draw_constraints(rng, ids, count, prompt)
        wordings = [TEMPLATES[key].said(rng, arguments) for key, arguments in drawn]
        if (
            len(drawn) >= counts[0]
            and gold_answer([key for key, _ in drawn], [given for _, given in drawn]) is not None
        ):
            return {
                "messages": [*messages[:-1], {**messages[-1], "content": _worded(rng, prompt, wordings)}],
                "instruction_id_list": [key for key, _ in drawn],
                "kwargs": [arguments for _, arguments in drawn],
            }
    raise DataError(
        f"No {count} constraints fit {prompt[:60]!r}.", "Lower min_constraints, or name more constraint_ids."
    )


def gold_answer(ids: Sequence[str], given: Sequence[Mapping[str, Any]]) -> str | None:
    """Filler text that follows all instructions; None where none was found. Checked, not assumed."""
    wanted = [
        (key, {name: value for name, value in arguments.items() if value is not None})
        for key, arguments in zip(ids, given, strict=True)
    ]
    checks = [(key, constraint(key, arguments)) for key, arguments in wanted]
    if any(key not in TEMPLATES for key in ids):
        return None
    least = least_padding(wanted)
    for padding in (*range(least, least + PADDINGS), *range(least - 1, 0, -1)):
        answer = draft(wanted, padding)
        if all(follows(key, check, answer) for key, check in checks):
            return answer
    return None


def _asked(record: Mapping[str, Any]) -> list[Message]:
    """The messages of a record up to the last of the user."""
    messages: list[Message] = messages_of(record) or []
    if not messages and isinstance(record.get("question"), str):
        messages = [{"role": "user", "content": record["question"]}]
    while messages and messages[-1].get("role") != "user":
        messages = messages[:-1]
    if not messages or not messages[-1].get("content", "").strip():
        raise DataError("The record has no prompt.", "Give it `prompt`, `messages` or `question`.")
    return messages


def _worded(rng: random.Random, prompt: str, wordings: Sequence[str]) -> str:
    """The prompt and what is asked of the answer, in one of three layouts."""
    layout = rng.randrange(3)
    if layout == 0:
        return f"{prompt}\n\n{' '.join(wordings)}"
    heads = ("Your answer must meet these conditions:", "Please observe the following:", "Rules for the answer:")
    marks = [f"{number}. " for number in range(1, len(wordings) + 1)] if layout == 1 else ["- "] * len(wordings)
    listed = "\n".join(mark + wording for mark, wording in zip(marks, wordings, strict=True))
    return f"{prompt}\n\n{rng.choice(heads)}\n{listed}"
