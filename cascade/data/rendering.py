"""Messages to text by a chat template, and where in the text the assistant turns are."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from cascade.errors import DataError
from cascade.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tool = dict[str, Any]
"""One function as JSON schema, e.g. `{"type": "function", "function": {"name": "add", "parameters": {...}}}`."""

Span = tuple[int, int]
"""`[start, end)` in characters of the rendered text."""

_GENERATION_BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_RENDERING = threading.Lock()  # transformers keeps the spans in the compiled template, one rendering at a time


def bundled_template(name: str) -> str:
    """The text of `templates/{name}.jinja`: `characters` or `chatml`. Raises `DataError` for any other name."""
    folder = Path(__file__).parent / "templates"
    path = folder / f"{name}.jinja"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.jinja")))
        raise DataError(f"There is no bundled chat template {name!r}.", f"Use one of: {names}.")
    return path.read_text(encoding="utf-8")


def text_of(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    thinking: bool | None,
    *,
    generation_prompt: bool,
) -> str:
    """The messages as the template writes them. Raises `DataError` when it cannot."""
    return _render(tokenizer, messages, tools, thinking, generation_prompt=generation_prompt)[0]


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    thinking: bool | None,
) -> tuple[str, list[Span]]:
    """The messages with the generation prompt, and the spans of earlier assistant turns where they can be told.

    Raises `DataError` when the template cannot render the messages.
    """
    text, spans = _render(tokenizer, messages, tools, thinking, generation_prompt=True)
    if not _marks_generation(_template(tokenizer, tools)):
        spans, changed = _spans_by_prefix(tokenizer, messages, tools, thinking, text)
        spans = [] if changed is not None else spans
    return text, spans


def conversation_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    thinking: bool | None,
) -> tuple[str, list[Span]]:
    """The messages without a generation prompt, and one span for every assistant turn: what the model writes in it.

    Raises `DataError` when the template cannot render the messages, marks another number of spans than there are
    assistant turns, or has no marks and renders an earlier turn differently once later turns follow.
    """
    text, spans = _render(tokenizer, messages, tools, thinking, generation_prompt=False)
    if not _marks_generation(_template(tokenizer, tools)):
        spans, changed = _spans_by_prefix(tokenizer, messages, tools, thinking, text)
        if changed is not None:
            raise DataError(
                f"The chat template renders assistant turn {changed} differently as prompt and as history, "
                "so that its tokens cannot be told apart.",
                "Use a template with {% generation %} blocks, e.g. `bundled_template('chatml')`.",
            )
        return text, spans
    turns = sum(message.get("role") == "assistant" for message in messages)
    if turns != len(spans):
        raise DataError(
            f"The chat template marks {len(spans)} spans for {turns} assistant turns.",
            "Put exactly one {% generation %} block around every assistant turn of the template.",
        )
    return text, spans


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    thinking: bool | None,
    *,
    generation_prompt: bool,
) -> tuple[str, list[Span]]:
    """The rendered text and the spans of `{% generation %}` blocks; no spans when the template has no such block."""
    template = _template(tokenizer, tools)
    if thinking and "enable_thinking" not in template:
        raise DataError("The chat template has no thinking mode.", "Leave `thinking` unset or use the chatml template.")
    _require_no_turn_markers(tokenizer, template, messages)
    variables: dict[str, Any] = dict(tokenizer.special_tokens_map)
    if thinking is not None:
        variables["enable_thinking"] = thinking
    try:
        with _RENDERING:
            rendered = render_jinja_template(
                conversations=[[_with_argument_mappings(message) for message in messages]],
                tools=list(tools) if tools else None,
                chat_template=template,
                return_assistant_tokens_mask=_marks_generation(template),
                add_generation_prompt=generation_prompt,
                **variables,
            )
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"The chat template cannot render these messages: {error}.",
            "Check the roles and keys of the messages, or choose another template.",
        ) from error
    texts, spans = cast(tuple[list[str], list[list[Span]]], rendered)
    return texts[0], spans[0] if spans else []


def _template(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool] | None) -> str:
    if not tokenizer.chat_template:
        raise DataError("The tokenizer has no chat template.", "Set one, e.g. `bundled_template('chatml')`.")
    return tokenizer.get_chat_template(None, list(tools) if tools else None)


def _marks_generation(template: str) -> bool:
    return _GENERATION_BLOCK.search(template) is not None


def _require_no_turn_markers(tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message]) -> None:
    """Refuse messages that spell the template's own special tokens: they would be encoded as turns, not as text."""
    markers = [token for token in tokenizer.all_special_tokens if token in template or token == tokenizer.eos_token]
    for index, message in enumerate(messages):
        text = json.dumps(message, ensure_ascii=False, default=str)
        found = [marker for marker in markers if marker in text]
        if found:
            raise DataError(
                f"Message {index} holds the special token {found[0]!r}, which would begin or end a turn.",
                "Remove or rewrite it in the text of the message.",
            )


def _with_argument_mappings(message: Message) -> dict[str, Any]:
    """The message with the arguments of tool calls as mappings, which templates expect; OpenAI sends JSON text."""
    plain = cast(dict[str, Any], dict(message))
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = None
            if not isinstance(arguments, Mapping):
                raise DataError(
                    f"The arguments of the call to {function.get('name')!r} are not a JSON object.",
                    "Give them as a mapping or as the JSON text of one.",
                )
        function = {**function, "arguments": arguments or {}}
        calls.append({**call, "function": function} if "function" in call else function)
    if calls:
        plain["tool_calls"] = calls
    plain["content"] = plain.get("content") or ""
    return plain


def _spans_by_prefix(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    thinking: bool | None,
    text: str,
) -> tuple[list[Span], int | None]:
    """Assistant spans of a template without marks: from the generation prompt of a turn to the end of that turn.

    Also the index of the first message whose rendering as prompt or history is no prefix of `text`, None if all are.
    """
    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before, _ = _render(tokenizer, messages[:index], tools, thinking, generation_prompt=True)
        through, _ = _render(tokenizer, messages[: index + 1], tools, thinking, generation_prompt=False)
        if not through.startswith(before) or not text.startswith(through):
            return spans, index
        closed = through.rstrip()
        # Whitespace after the closing special token is written by the template, not by the model.
        ends_with_special = closed.endswith(tuple(tokenizer.all_special_tokens)) and len(closed) > len(before)
        spans.append((len(before), len(closed) if ends_with_special else len(through)))
    return spans, None
