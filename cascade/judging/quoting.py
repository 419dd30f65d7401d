"""Text of others as it is shown to a judge: it can be read there, but neither steer the chat nor pass for a verdict."""

from __future__ import annotations

import hashlib
import re

MAX_CHARS = 60_000
# What tokenizers turn into control tokens also in the middle of a message: the markers of ChatML and Llama 3,
# DeepSeek's with full-width bars, Gemma's, Mistral's, Llama 2's, and the edges of reasoning and calls.
_CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|｜[^｜<>]{1,40}｜>|/?(?:think|tool_call|tool_response|start_of_turn|end_of_turn|s|bos|eos)>"
    r"|</?SYS>>)|\[(?=/?INST\])"
)
_VERDICT_KEY = re.compile(r'"(score_1|score_2|ranking)"(?=\s*:)')


def shown(text: str, max_chars: int = MAX_CHARS) -> str:
    """The text with control tokens broken by a space, and the keys of a verdict in single quotes.

    So a judge that repeats a JSON object out of an answer does not write a verdict. What is longer than `max_chars`
    characters is cut, which is said.
    """
    if len(text) > max_chars:
        text = f"{text[:max_chars]}\n[{len(text) - max_chars} more characters are left out]"
    return _VERDICT_KEY.sub(r"'\1'", _CONTROL.sub(lambda found: found[0] + " ", text))


def fence(*texts: str) -> str:
    """A word for the marks around these texts that none of them can hold, as it is a hash of them all."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:12]
