"""What a demonstration row trains: chat messages, or plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from cascade.errors import DataError
from cascade.types import Message


class Conversation(NamedTuple):
    """Chat messages to train on, e.g. `Conversation([{"role": "user", ...}, {"role": "assistant", ...}], None, 0)`."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    train_from: int  # index of the first message whose assistant turns are trained


@dataclass(frozen=True, slots=True)
class RawText:
    """Plain text of which every token is trained, e.g. `RawText("Once upon a time")`."""

    text: str


def conversation_of(row: Mapping[str, Any]) -> Conversation | RawText:
    """What a demonstration row trains, by its columns, the first that fits.

    `messages` trains every assistant turn; `prompt` + `completion` (strings, or lists of messages) only the assistant
    turns of the completion; `text` everything. A `tools` column holds JSON schemas, or the JSON text of a list of them.

    Raises `DataError` for other columns and for messages of another form.
    """
    if row.get("messages") is not None:
        return _conversation(_messages(row["messages"], "user"), [], row)
    if row.get("prompt") is not None and row.get("completion") is not None:
        return _conversation(_messages(row["completion"], "assistant"), _messages(row["prompt"], "user"), row)
    if isinstance(row.get("text"), str):
        return RawText(row["text"])
    raise DataError(
        f"The row has the columns {sorted(row)}.",
        "Training needs `messages`, or `prompt` and `completion`, or `text`.",
    )


def _conversation(trained: list[Message], given: list[Message], row: Mapping[str, Any]) -> Conversation:
    if not any(message.get("role") == "assistant" for message in trained):
        raise DataError("The row has no assistant turn to train on.", "Add the answer, or leave the row out.")
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"The tools of the row are not JSON: {error}.", "Give a list of JSON schemas.") from error
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError("The tools of the row are not a list of JSON schemas.", "Give a list of objects, or none.")
    return Conversation([*given, *trained], tools or None, len(given))


def _messages(value: Any, role_of_text: str) -> list[Message]:
    """A list of messages, or a string as the one message of `role_of_text`; keys without a value are left out."""
    if isinstance(value, str):
        return [{"role": role_of_text, "content": value}]
    messages = value if isinstance(value, Sequence) else [value]
    return [_message(message) for message in messages]


def _message(value: Any) -> Message:
    fits = isinstance(value, Mapping) and isinstance(value.get("role"), str)
    if not fits or not (isinstance(value.get("content"), str) or value.get("tool_calls")):
        raise DataError(
            f"{str(value)[:80]!r} is not a chat message.",
            "Give objects with a `role` and a text `content` or `tool_calls`.",
        )
    return cast(Message, {key: item for key, item in value.items() if item is not None})
