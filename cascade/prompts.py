"""Rows to tokens: the prompts and demonstrations of a stage's environment mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.data.chat import render_conversation, render_prompt
from cascade.data.mixture import Mixture
from cascade.errors import DataError
from cascade.ports import Environment
from cascade.types import Message, Prompt, Row, TrainingSequence


@dataclass(frozen=True)
class PromptSource:
    """Draws rows in the proportions of the mix and renders them. The same on every rank."""

    environments: Mapping[str, Environment]
    mixture: Mixture
    tokenizer: Any
    longest: int  # tokens a training row holds
    teachers: Mapping[str, str] = field(default_factory=dict)  # domain -> identity; empty without teachers

    def draw(self, n: int) -> list[Prompt]:
        """The next n prompts, each with the one teacher of its domain on it."""
        return [self.prompt(row) for row in self.mixture.draw(n)]

    def prompt(self, row: Row) -> Prompt:
        """One row as a prompt."""
        messages = self.environments[row.environment].messages(row)
        return Prompt(row, tuple(render_prompt(self.tokenizer, messages)), self.teachers.get(row.domain))

    def demonstrations(self, n: int) -> list[TrainingSequence]:
        """The next n rows with their gold answers, loss on assistant tokens only. Raises `DataError` for a long one."""
        sequences = []
        for row in self.mixture.draw(n):
            environment = self.environments[row.environment]
            answer: Message = {"role": "assistant", "content": environment.gold(row)}
            tokens, mask = render_conversation(self.tokenizer, [*environment.messages(row), answer])
            if len(tokens) > self.longest:
                raise DataError(
                    f"The demonstration {row.id} has {len(tokens)} tokens, but `policy.row_tokens` is {self.longest}.",
                    "Raise `policy.row_tokens`, or drop the row from the data.",
                )
            sequences.append(TrainingSequence(tuple(tokens), tuple(mask), domain=row.domain))
        return sequences
