"""Rows to tokens: the prompts and demonstrations of a stage's environment mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cascade.data.chat import render_conversation, render_prompt, render_text
from cascade.data.conversations import RawText, conversation_of
from cascade.data.mixture import Mixture
from cascade.errors import DataError
from cascade.ports import Environment, OffersTools
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
        environment, thinking = self.environments[row.environment], self.thinking[row.environment]
        tools = environment.tools(row) if isinstance(environment, OffersTools) else None
        tokens = render_prompt(self.tokenizer, environment.messages(row), tools=tools, thinking=thinking)
        return Prompt(row, tuple(tokens), teacher, bool(thinking))

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
            tokens, mask = render_conversation(self.tokenizer, [*environment.messages(row), answer])
        return TrainingSequence(tuple(tokens), tuple(mask), domain=row.domain)


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
