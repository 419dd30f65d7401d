"""What the rows of different people have in common: a prompt, tools, and whether to reason.

TRL writes `prompt` (text or messages) and `tools` in the form of chat completions; NeMo-Gym writes
`responses_create_params` with `input` and `tools` in the form of the Responses API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from cascade.environments.tool_calls import call_text
from cascade.errors import DataError
from cascade.types import Message

ROLES = {"developer": "system"}  # what the Responses API calls a role, and a chat template does


def shared_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """`messages`, `tools` and `thinking` of a record, each only where it has them. Raises `DataError`."""
    found = {"messages": messages_of(record), "tools": tools_of(record), "thinking": thinking_of(record)}
    return {key: value for key, value in found.items() if value is not None}


def messages_of(record: Mapping[str, Any]) -> list[Message] | None:
    """The prompt of a record as chat messages; None where it has none. Raises `DataError` for one of another form."""
    asked = _parameters(record).get("input", record.get("prompt", record.get("messages")))
    if asked is None:
        return None
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    if not isinstance(asked, Sequence) or not asked:
        raise DataError(f"The prompt is {type(asked).__name__}.", "Give text, or a list of messages.")
    return [chat_message(item) for item in asked]


def chat_message(item: Any) -> Message:
    """One message in the form of chat completions or of the Responses API. Raises `DataError` for anything else."""
    if not isinstance(item, Mapping):
        raise DataError(f"{str(item)[:60]!r} is not a message.", "Give objects with `role` and `content`.")
    if item.get("type") == "function_call":
        return {"role": "assistant", "content": call_text([item])}
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": _text(item.get("output"))}
    if item.get("type") == "reasoning":
        return {"role": "assistant", "content": "", "reasoning_content": _text(item.get("summary"))}
    if not isinstance(item.get("role"), str):
        raise DataError(f"The message {str(dict(item))[:60]!r} has no role.", "Give every message a `role`.")
    message: dict[str, Any] = {"role": ROLES.get(item["role"], item["role"]), "content": _text(item.get("content"))}
    message.update({key: item[key] for key in ("reasoning_content", "tool_calls") if item.get(key)})
    return cast(Message, message)


def tools_of(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools of a record in the form of chat completions; None where it has none. Raises `DataError`."""
    tools = _parameters(record).get("tools", record.get("tools"))
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"The tools are not JSON: {error}.", "Give a list of JSON schemas.") from None
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError("The tools are not a list of JSON schemas.", "Give a list of objects.")
    return [_chat_tool(tool) for tool in tools]


def thinking_of(record: Mapping[str, Any]) -> bool | None:
    """Whether the row asks for reasoning: its `thinking`, or `enable_thinking` of its `chat_template_kwargs`."""
    kwargs = record.get("chat_template_kwargs")
    asked = record.get("thinking", kwargs.get("enable_thinking") if isinstance(kwargs, Mapping) else None)
    if asked is not None and not isinstance(asked, bool):
        raise DataError(f"`thinking` is {asked!r}.", "Give true or false, or leave it out.")
    return asked


def _parameters(record: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = record.get("responses_create_params")
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except ValueError as error:
            raise DataError(f"`responses_create_params` is not JSON: {error}.", "Give an object.") from None
    if parameters is not None and not isinstance(parameters, Mapping):
        raise DataError("`responses_create_params` is not an object.", "Give `input`, and `tools` if there are any.")
    return parameters or {}


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {"type": "function", "function": dict(tool["function"])}
    if not isinstance(tool.get("name"), str):
        raise DataError(f"The tool {str(dict(tool))[:60]!r} has no name.", "Give every tool a `name`.")
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _text(content: Any) -> str:
    """Text as it is, or the texts of a list of parts end to end. Raises `DataError` for parts that are not text."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, Sequence) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise DataError("A message holds parts that are not text.", "Give text; pictures and sounds are not read.")
    return "".join(part["text"] for part in parts)
