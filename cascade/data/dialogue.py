"""What the model reads next in a conversation of several turns: sampled ids as they are, only the rest is encoded.

The chat template renders the conversation with marks in place of what the model wrote. What it writes between the
marks is encoded, the ids that were sampled are put in place of the marks, and no sampled token is ever decoded and
encoded again. Whether a template keeps the reasoning of a turn shows in whether its mark is still there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cascade.data.characters import require_known_characters
from cascade.data.chat import render_prompt
from cascade.data.rendering import Tool, text_of
from cascade.errors import DataError
from cascade.reasoning import CLOSE, OPEN
from cascade.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_OPENING = 64  # tokens of a generation prompt


@dataclass(frozen=True, slots=True)
class Context:
    """What a turn is sampled after, e.g. `Context((3, 10, 1, 5, 11, 1, 4), "<|tool|>5<|end|><|assistant|>", ...)`."""

    token_ids: tuple[int, ...]  # [T]
    given: str  # the template's text since the turn before; for the first turn, the whole prompt
    given_ids: tuple[int, ...]  # its tokens, the last of `token_ids`


@dataclass(frozen=True, slots=True)
class Turn:
    """A finished turn of the model, as `Dialogue.turn` makes it."""

    given: str  # as in the context that it was sampled after
    given_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # sampled, the stop token included
    replies: tuple[Message, ...]  # the messages that followed
    reasons: bool  # it begins with reasoning, be it that the prompt opened it or that the model did


@dataclass(frozen=True)
class Dialogue:
    """How a conversation begins, and the template that writes everything in it but what the model samples."""

    tokenizer: PreTrainedTokenizerBase
    messages: Sequence[Message]
    prompt_ids: tuple[int, ...]  # `render_prompt` of the messages
    tools: Sequence[Tool] | None = None
    thinking: bool | None = None

    @cached_property
    def start(self) -> Context:
        """The context of the first turn. Raises `DataError` when the prompt's ids are not those of the messages."""
        rendered = render_prompt(self.tokenizer, self.messages, tools=self.tools, thinking=self.thinking)
        if tuple(rendered) != self.prompt_ids:
            raise DataError(
                "A prompt of several turns is not what the chat template makes of its messages and tools.",
                "Render it with `render_prompt`, the same tools and the same `thinking`.",
            )
        return Context(self.prompt_ids, self._text(self.messages), self.prompt_ids)

    def turn(self, context: Context, token_ids: Sequence[int], replies: Sequence[Message]) -> Turn:
        """What was sampled after `context`, a stop token at its end, and the messages that followed it."""
        text, given = self._decode(token_ids), context.given.rstrip()
        opened = given.endswith(OPEN) or text.lstrip().startswith(OPEN)
        reasons = opened or (CLOSE in text and not given.endswith(CLOSE))
        return Turn(context.given, context.given_ids, tuple(token_ids), tuple(replies), reasons)

    def after(self, turns: Sequence[Turn]) -> Context:
        """The context after finished turns.

        Where the template keeps everything it is the context of the last turn, that turn and the encoded text that
        follows. Where it drops reasoning, the ids of that reasoning are left out up to the whitespace that follows
        its close tag. A stop token that the template writes too stands there once, another one stands before the
        template's own end of the turn.

        Raises `DataError` when the template cannot render the messages or does not write an answer exactly once, and
        when a token holds both the end of dropped reasoning and the beginning of the answer.
        """
        pieces, kept = self._pieces(turns)
        token_ids: list[int] = []
        for i, (turn, piece) in enumerate(zip(turns, pieces, strict=False)):
            # Kept reasoning: what else the template writes before it, such as an opening tag, was sampled.
            if piece == turn.given or (turn.reasons and kept[i] and piece.startswith(turn.given)):
                token_ids += turn.given_ids
            else:
                token_ids += self._encode(piece) if i else self._encode_prompt(piece)
            token_ids += turn.token_ids if kept[i] else turn.token_ids[self._answer_start(turn.token_ids) :]
        last = self._encode(pieces[-1])
        return Context((*token_ids, *last), pieces[-1], tuple(last))

    def _pieces(self, turns: Sequence[Turn]) -> tuple[list[str], list[bool]]:
        """The template's text before, between and after the turns, and whether each turn is kept whole."""
        messages = list(self.messages)
        for i, turn in enumerate(turns):
            messages += [self._marked(i, turn.reasons), *turn.replies]
        text, start = self._text(messages), 0
        pieces, kept = [], []
        for i, turn in enumerate(turns):
            reasoning, answer = _marks(i)
            if text.count(answer) != 1:
                raise DataError(
                    f"The chat template writes the answer of turn {i} {text.count(answer)} times.",
                    "Use a template that writes every earlier answer once.",
                )
            shown = text.find(reasoning, start)
            pieces.append(text[start : text.find(answer, start) if shown < 0 else shown])
            kept.append(shown >= 0 or not turn.reasons)
            start = text.index(answer) + len(answer)
            stop = self._decode(turn.token_ids[-1:])
            if text[start:].lstrip().startswith(stop):  # sampled already
                start = text.index(stop, start) + len(stop)
        return [*pieces, text[start:]], kept

    def _marked(self, i: int, reasons: bool) -> Message:
        """Turn i with marks in place of what was sampled."""
        reasoning, answer = _marks(i)
        if not reasons:
            return {"role": "assistant", "content": answer}
        if self._has_reasoning_key:
            return {"role": "assistant", "content": answer, "reasoning_content": reasoning}
        return {"role": "assistant", "content": f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}"}

    @cached_property
    def _has_reasoning_key(self) -> bool:
        """Whether the template writes `reasoning_content`, in the newest turn at least."""
        reasoning, answer = _marks(0)
        newest: Message = {"role": "assistant", "content": answer, "reasoning_content": reasoning}
        try:
            return reasoning in self._text([*self.messages, newest])
        except DataError:
            return False

    def _answer_start(self, token_ids: Sequence[int]) -> int:
        """The first token after the reasoning and the whitespace that follows it; the stop token if it never ended."""
        text = self._decode(token_ids)
        closed = text.rfind(CLOSE)
        if closed < 0:
            return len(token_ids) - 1
        closed += len(CLOSE)
        answer = len(text) - len(text[closed:].lstrip())
        counts = range(len(token_ids) + 1)
        start = bisect_right(counts, answer, key=lambda count: len(self._decode(token_ids[:count]))) - 1
        if len(self._decode(token_ids[:start])) < closed:
            raise DataError(
                f"A token holds both the end of {CLOSE} and what follows it, so that reasoning cannot be left out.",
                f"Use a tokenizer in which {CLOSE} is a token, or a template that keeps reasoning.",
            )
        return start

    def _encode_prompt(self, text: str) -> list[int]:
        """The prompt as the template writes it now: its own ids as far as it is the same, then `text` encoded.

        Where more than its last tokens changed, all of `text` is encoded.
        """
        before = self.start.given
        same = next(
            (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text))
        )
        for count in range(min(len(self.prompt_ids), LONGEST_OPENING) + 1):
            unchanged, changed = self.prompt_ids[: -count or None], self.prompt_ids[-count:] if count else ()
            tail = self._decode(changed)
            if len(before) - len(tail) <= same and before.endswith(tail):
                return [*unchanged, *self._encode(text[len(before) - len(tail) :])]
        return self._encode(text)

    def _text(self, messages: Sequence[Message]) -> str:
        return text_of(self.tokenizer, messages, self.tools, self.thinking, generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        require_known_characters(self.tokenizer, text)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Special tokens included."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)


def _marks(turn: int) -> tuple[str, str]:
    """What stands for the reasoning and the answer of a turn; of characters for private use, which no text has."""
    return f"\ue000{turn}\ue001", f"\ue002{turn}\ue003"
