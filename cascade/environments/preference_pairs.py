"""preference: two answers to one prompt, and which of them people prefer; what reward models are trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.data.datasets import NumberedRow
from cascade.data.pairs import conversation_length
from cascade.environments.records import chat_message, messages_of
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.types import Message, Pair, Row, Score

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class PreferencePairs(RowEnvironment):
    """Rows with `chosen` and `rejected`, and `prompt` where it is not part of them.

    Each side is a list of messages, text, or a transcript of Bai et al. (2022): `\\n\\nHuman: … \\n\\nAssistant: …`.
    Messages that begin with an assistant turn, and text, go on from `prompt`; other messages and transcripts are
    whole conversations. Text without a prompt is text without a chat. It scores no answer: which of two is better
    says nothing about a third.
    """

    name: str = "preference_pairs"
    domain: str = "preference"
    max_characters: int | None = None  # pairs with a longer side are left out; None: none are

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_characters is not None and self.max_characters < 1:
            raise ConfigError(f"max_characters is {self.max_characters}.", "Give a number of characters.")

    @property
    def pairs_only(self) -> bool:
        return True

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Both sides, each whole."""
        prompt = messages_of({key: record[key] for key in ("prompt", "responses_create_params") if record.get(key)})
        sides = {name: _side(record.get(name), prompt or [], name) for name in ("chosen", "rejected")}
        if sides["chosen"] == sides["rejected"]:
            raise DataError("`chosen` and `rejected` are the same.", "Leave the row out: it prefers nothing.")
        return sides

    def rows_of(self, records: Iterable[NumberedRow], source: str) -> list[Row]:
        """Those of the records that `max_characters` lets through, as rows."""
        rows, most = super().rows_of(records, source), self.max_characters
        return rows if most is None else [row for row in rows if _longest_side(row.data) <= most]

    def pair(self, row: Row) -> Pair:
        return Pair(row.data["chosen"], row.data["rejected"])

    def messages(self, row: Row) -> list[Message]:
        """What both sides begin with."""
        chosen, rejected = row.data["chosen"], row.data["rejected"]
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise DataError(f"{row.id} is text without a prompt.", "Give the row a `prompt`.")
        same = [a == b for a, b in zip(chosen[:-1], rejected, strict=False)]
        return chosen[: same.index(False) if False in same else len(same)]

    def gold(self, row: Row) -> str:
        """Raises `DataError`: no answer scores 1, because none is scored."""
        raise DataError(f"{row.id} is a pair of answers, none of which is scored.", "See its `demonstration`.")

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The preferred answer to its prompt, for supervised fine-tuning."""
        chosen = row.data["chosen"]
        return {"text": chosen} if isinstance(chosen, str) else {"prompt": chosen[:-1], "completion": chosen[-1:]}

    def score(self, row: Row, answer: str) -> Score:
        """Raises `VerifierFailure`: a pair says nothing about a third answer."""
        raise VerifierFailure(
            FailureKind.DATA,
            f"{row.id} is a pair of answers, which a reward model learns from; it scores no other answer. "
            "Train a stage of kind reward_model on it.",
        )


def _side(value: Any, prompt: Sequence[Message], name: str) -> list[Message] | str:
    """One side as a whole conversation that ends with an answer, or as text. Raises `DataError` for anything else."""
    if isinstance(value, str) and value:
        if _TURN.match(value):
            return _ending_in_an_answer(_transcript(value), name)
        return [*prompt, {"role": "assistant", "content": value}] if prompt else value
    if not isinstance(value, Sequence) or not value:
        raise DataError(f"`{name}` is {str(value)[:40]!r}.", "Give messages, or text.")
    messages = [chat_message(item) for item in value]
    goes_on = messages[0].get("role") == "assistant"
    return _ending_in_an_answer([*prompt, *messages] if goes_on else messages, name)


def _transcript(text: str) -> list[Message]:
    """The turns of `\\n\\nHuman: … \\n\\nAssistant: …`, white space around each left off."""
    pieces = _TURN.split(text)[1:]  # role, text, role, text, ...
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": _ROLES[role], "content": said.strip()} for role, said in turns]


def _ending_in_an_answer(messages: list[Message], name: str) -> list[Message]:
    if messages[-1].get("role") != "assistant":
        raise DataError(f"`{name}` does not end with an assistant turn.", "Give a whole answer.")
    return messages


def _longest_side(data: Mapping[str, Any]) -> int:
    """Characters."""
    return max(conversation_length(data[name]) for name in ("chosen", "rejected"))
