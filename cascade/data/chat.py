"""Messages to token ids and loss masks, exact at every boundary between what was given and what the model wrote.

The rendered text is cut at these boundaries and the pieces are encoded one by one. A token therefore never straddles a
boundary, and the ids of a conversation are the ids of its prompt followed by the ids of its completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from cascade.data.characters import require_known_characters
from cascade.data.rendering import Span, Tool, bundled_template, conversation_text, prompt_text, text_of
from cascade.errors import DataError
from cascade.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Tool",
    "bundled_template",
    "completion_text",
    "render_chat",
    "render_conversation",
    "render_prompt",
    "render_text",
]


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    thinking: bool | None = None,
) -> list[int]:
    """Token ids of `messages` followed by the generation prompt, `[T_prompt]`.

    `thinking` is handed to the template as `enable_thinking`; None leaves the template's default. Earlier assistant
    turns keep the ids they have in `render_conversation`, unless the template rewrites history: then the text is
    encoded whole.

    Raises `DataError` when the template cannot render the messages or the tokenizer cannot encode them.
    """
    text, spans = prompt_text(tokenizer, messages, tools, thinking)
    return [token for piece, _ in _pieces(text, spans) for token in _encode(tokenizer, piece)]


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    thinking: bool | None = None,
    train_from: int = 0,
) -> tuple[list[int], list[int]]:
    """Token ids `[T]` and loss mask `[T]` of a finished conversation.

    The mask is 1 on what the model writes in an assistant turn: reasoning, content, tool calls and the end-of-turn
    token; 0 on everything else, also on the header that the generation prompt provides. Turns of messages before
    `train_from` are 0. Where a turn ends is found by position, never by token id, so that pad may equal eos.

    Raises `DataError` when the template cannot render the messages, when the tokenizer cannot encode them, or when a
    template without `{% generation %}` renders an earlier turn differently once later turns follow.
    """
    text, spans = conversation_text(tokenizer, messages, tools, thinking)
    turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    trained = {start for turn, (start, _) in zip(turns, spans, strict=True) if turn >= train_from}
    token_ids: list[int] = []
    loss_mask: list[int] = []
    for piece, start in _pieces(text, spans):
        encoded = _encode(tokenizer, piece)
        token_ids += encoded
        loss_mask += [int(start in trained)] * len(encoded)
    return token_ids, loss_mask


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[Tool] | None = None
) -> list[int]:
    """Token ids `[T]` of a finished conversation, encoded in one piece: those of `apply_chat_template`.

    Nothing is told apart in it, so a template may rewrite history and need not mark what the model writes. Raises
    `DataError` when the template cannot render the messages or the tokenizer cannot encode them.
    """
    return _encode(tokenizer, text_of(tokenizer, messages, tools, None, generation_prompt=False))


def render_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids `[T]` and loss mask `[T]` of plain text, ended by eos; all but the first token are trained.

    Raises `DataError` when the tokenizer has no eos token or cannot encode the text.
    """
    if not isinstance(tokenizer.eos_token_id, int):
        raise DataError("The tokenizer has no eos token to end a text with.", "Set `eos_token` in its configuration.")
    token_ids = _encode(tokenizer, text)
    if token_ids[-1:] != [tokenizer.eos_token_id]:
        token_ids = [*token_ids, tokenizer.eos_token_id]
    return token_ids, [0] + [1] * (len(token_ids) - 1)


def completion_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of sampled token ids `[T_completion]` without special tokens, spacing untouched."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast(str, text)


def _pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, int]]:
    """The text cut at both ends of every span, each piece with the character it starts at."""
    cuts = [0, *(edge for span in spans for edge in span), len(text)]
    return [(text[start:end], start) for start, end in pairwise(cuts) if end > start]


def _encode(tokenizer: PreTrainedTokenizerBase, piece: str) -> list[int]:
    require_known_characters(tokenizer, piece)
    token_ids = tokenizer.encode(piece, add_special_tokens=False)
    first = str(tokenizer.convert_ids_to_tokens(token_ids[0])) if token_ids else ""
    if first[:1] in ("▁", "Ġ") and first[0] != piece[0] and not piece[0].isspace():
        raise DataError(
            "The tokenizer puts a space before every text, so that pieces of a conversation cannot be joined.",
            "Load it with `add_prefix_space=False`.",
        )
    return token_ids
