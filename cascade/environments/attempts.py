"""Completions that people have in files, as attempts to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cascade.environments.records import chat_message
from cascade.environments.tool_calls import call_text
from cascade.errors import DataError
from cascade.reasoning import CLOSE, OPEN, split_reasoning
from cascade.types import Attempt


def attempt_of(completion: Any) -> Attempt:
    """Text, or the messages of an episode, of which the assistant's are the turns. Raises `DataError` for neither.

    Assistant messages that follow each other (as items of the Responses API do: reasoning, then calls) are one turn.
    """
    if isinstance(completion, str):
        return attempt_at([completion])
    if not isinstance(completion, Sequence) or not completion:
        raise DataError(f"The completion is {type(completion).__name__}.", "Give text, or a list of messages.")
    turns: list[str] = []
    last_role = ""
    for message in map(chat_message, completion):
        role = message.get("role", "")
        if role == "assistant":
            thought = message.get("reasoning_content")
            text = f"{OPEN}{thought}{CLOSE}" if thought else ""
            text += message.get("content", "") + call_text(message.get("tool_calls") or [])
            if last_role == "assistant":
                turns[-1] += text
            else:
                turns.append(text)
        elif role == "user" and _calls(turns, last_role):
            turns.append("")  # the model was done with its calls and said nothing; the user goes on
        last_role = role
    if not turns:
        raise DataError("The completion has no assistant message.", "Give what the model wrote.")
    return attempt_at(turns)


def _calls(turns: Sequence[str], last_role: str) -> bool:
    """Whether the episode stands at a call of the model's, which no turn of text has ended."""
    return bool(turns) and (last_role == "tool" or "<tool_call>" in turns[-1])


def attempt_at(
    turns: Sequence[str], opened: bool = False, finished: bool = True, token_ids: Sequence[int] = ()
) -> Attempt:
    """The attempt that wrote these turns. `opened`: every one of them began within the reasoning."""
    parts = [split_reasoning(turn, opened) for turn in turns]
    reasoning, answers = tuple(part.reasoning for part in parts), tuple(part.answer for part in parts)
    return Attempt(tuple(turns), reasoning, answers, finished, tuple(token_ids), opened)
