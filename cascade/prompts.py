"""Rows to tokens: the prompts and demonstrations of a stage's environment mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cascade.data.chat import render_chat, render_conversation, render_prompt, render_text
from cascade.data.conversations import RawText, conversation_of
from cascade.data.mixture import Mixture
from cascade.data.pairs import rewarded
from cascade.data.tokenizers import pad_id_of
from cascade.errors import DataError
from cascade.ports import ChoosesThinking, Environment, GivesPairs, OffersTools
from cascade.types import Message, Prompt, Row, TrainingSequence


@runtime_checkable
class Demonstrates(Protocol):
    """An environment whose rows are whole demonstrations: several turns, tools, reasoning, or plain text."""

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """`messages`, or `prompt` and `completion`, or `text`."""
        ...


@dataclass(frozen=True)
class Renderer:
    """Turns rows of any environment into prompts."""

    environments: Mapping[str, Environment]
    thinking: Mapping[
        str, bool | None
    ]  # environment -> whether the model is asked to reason; None: as the template says
    tokenizer: Any

    def prompt(self, row: Row, teacher: str | None = None) -> Prompt:
        """A row as a prompt that ends where the model's answer begins."""
        messages, thinking = self.environments[row.environment].messages(row), self.thinking_of(row)
        tokens = render_prompt(self.tokenizer, messages, tools=self.tools_of(row), thinking=thinking)
        return Prompt(row, tuple(tokens), teacher, bool(thinking))

    def thinking_of(self, row: Row) -> bool | None:
        """Whether the model is asked to reason: as the row says, else the recipe; None: as the template says."""
        environment = self.environments[row.environment]
        own = environment.thinking(row) if isinstance(environment, ChoosesThinking) else None
        return self.thinking[row.environment] if own is None else own

    def tools_of(self, row: Row) -> list[dict[str, Any]] | None:
        """The tools that the prompt of a row shows."""
        environment = self.environments[row.environment]
        return environment.tools(row) if isinstance(environment, OffersTools) else None

    def demonstration(self, row: Row) -> TrainingSequence:
        """A row with its gold answer, or the whole demonstration it is; loss on assistant tokens only."""
        environment = self.environments[row.environment]
        if isinstance(environment, Demonstrates):
            shown = conversation_of(environment.demonstration(row))
            if isinstance(shown, RawText):
                tokens, mask = render_text(self.tokenizer, shown.text)
            else:
                tokens, mask = render_conversation(
                    self.tokenizer, shown.messages, tools=shown.tools, train_from=shown.train_from
                )
        else:
            answer: Message = {"role": "assistant", "content": environment.gold(row)}
            messages = [*environment.messages(row), answer]
            tokens, mask = render_conversation(self.tokenizer, messages, tools=self.tools_of(row))
        return TrainingSequence(tuple(tokens), tuple(mask), domain=row.domain)

    def pair(self, row: Row) -> tuple[TrainingSequence, TrainingSequence]:
        """The preferred conversation of a row and the other one, as a reward model reads them: whole.

        Raises `DataError` for a row of an environment without pairs.
        """
        environment = self.environments[row.environment]
        if not isinstance(environment, GivesPairs):
            raise DataError(f"{row.environment} gives no preference pairs.", "See `cascade.ports.GivesPairs`.")
        pair = environment.pair(row)
        return self.document(row, pair.chosen), self.document(row, pair.rejected)

    def document(self, row: Row, side: Sequence[Message] | str) -> TrainingSequence:
        """A finished chat, or text, of the row as a reward model reads it. Raises `DataError` for an unreadable one."""
        if isinstance(side, str):
            tokens, _ = render_text(self.tokenizer, side)
        else:
            tokens = render_chat(self.tokenizer, side, tools=self.tools_of(row))
        return rewarded(tokens, pad_id_of(self.tokenizer), row.domain)


def trained_messages(environment: Environment, row: Row) -> Sequence[Message]:
    """The messages that a training row shows the model; none where it is plain text."""
    if isinstance(environment, Demonstrates):
        shown = conversation_of(environment.demonstration(row))
        return () if isinstance(shown, RawText) else shown.messages
    return environment.messages(row)


@dataclass(frozen=True)
class PromptSource:
    """Draws rows in the proportions of the mix. The same on every rank."""

    renderer: Renderer
    mixture: Mixture
    longest: int  # tokens a training row holds
    teachers: Mapping[str, str] = field(default_factory=dict)  # domain -> identity; empty without teachers

    def draw(self, n: int) -> list[Prompt]:
        """The next n prompts, each with the one teacher of its domain on it."""
        return [self.renderer.prompt(row, self.teachers.get(row.domain)) for row in self.mixture.draw(n)]

    def demonstrations(self, n: int) -> list[TrainingSequence]:
        """The next n demonstrations. Raises `DataError` for one that no training row can hold."""
        rows = self.mixture.draw(n)
        sequences = [self.renderer.demonstration(row) for row in rows]
        for row, sequence in zip(rows, sequences, strict=True):
            if len(sequence.token_ids) > self.longest:
                raise DataError(
                    f"The demonstration {row.id} has {len(sequence.token_ids)} tokens, more than "
                    f"`policy.row_tokens`, {self.longest}.",
                    "Raise `policy.row_tokens`, or leave the row out of the data.",
                )
        return sequences

    def pairs(self, n: int) -> list[tuple[TrainingSequence, TrainingSequence]]:
        """The next n pairs. Raises `DataError` for one with a side that no training row can hold."""
        rows = self.mixture.draw(n)
        pairs = [self.renderer.pair(row) for row in rows]
        for row, pair in zip(rows, pairs, strict=True):
            tokens = max(len(side.token_ids) for side in pair)
            if tokens > self.longest:
                raise DataError(
                    f"A side of the pair {row.id} has {tokens} tokens, more than `policy.row_tokens`, {self.longest}.",
                    "Raise `policy.row_tokens`, or leave the row out: `preference_pairs` has `max_characters` for it.",
                )
        return pairs
