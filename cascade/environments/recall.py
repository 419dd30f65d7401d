"""long_context: needles in a haystack and values of a key-value store, at any length; and rows of RULER."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.environments.haystacks import Haystacks, Kind
from cascade.environments.procedural import split_of
from cascade.environments.row_source import RowEnvironment
from cascade.environments.string_match import ruler_all, ruler_part
from cascade.errors import DataError
from cascade.types import Message, Row, Score, Split

PART_SUBSETS = ("qa_1", "qa_2")  # of RULER, where any of the outputs is enough
ANSWER_CHARS = 300  # that an answer may have besides the values it is to give
MAX_STRANGERS = 4  # other values of the outputs' form in an answer to a row of RULER
MAX_RULER_CHARS = 8_000  # of such an answer; RULER itself lets models write 128 tokens

_DIGITS = re.compile(r"[0-9]+")
_GROUPING = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")  # 4,711,042
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Recall(RowEnvironment):
    """Drawn haystacks where no source is named; else rows of RULER (`outputs`, `length`, `subset`; NeMo-Gym's `ruler`).

    `needle` hides sentences such as `The magic number of calm-falcon is 4711042.` in filler; `key_value` shows a JSON
    object of UUIDs. An answer is right when it gives all values asked for and no other one, within 300 characters
    more than they have. A row holds its seed, not its text, which is made when it is asked for.

    Rows of RULER are scored as RULER does: the share of the outputs that stand in the answer, or whether one does in
    its question answering. But an answer that is long against the haystack, or lists values, scores 0.

    Args:
        target_tokens: length of the prompt.
        keys: needles of other keys to tell apart; of `key_value` as many as fit.
        queries: keys that are asked for at once.
        values: values that every key has.
        filler: rows (HotpotQA, SQuAD, or `text`) whose sentences surround the needles; None: sentences of our own.
        tokenizer: folder or hub id of what counts tokens; None: four characters each.
    """

    name: str = "recall"
    domain: str = "long_context"
    task: Kind = "needle"
    target_tokens: int = 4096
    keys: int = 4
    queries: int = 1
    values: int = 1
    filler: str | None = None
    tokenizer: str | None = None
    train_rows: int | None = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._haystacks  # noqa: B018  what cannot be drawn is said now

    def rows(self, split: Split) -> Sequence[Row]:
        """Rows of the sources; without any, drawn ones, whose split follows from what is hidden."""
        if self.train or self.validation or self.test:
            return super().rows(split)
        wanted = {"train": self.train_rows or 4000, "validation": self.validation_rows, "test": self.test_rows}[split]
        found: dict[str, Row] = {}
        for number in range(1000 + 50 * wanted):
            if len(found) >= wanted:
                break
            seed = f"{self.seed}/{self.name}/{split}/{number}"
            hidden = self._haystacks.drawn(seed)
            if split_of("/".join([*hidden.asked, *hidden.expected])) == split:
                data = {"seed": seed, "asked": hidden.asked, "outputs": hidden.expected}
                found.setdefault(seed, Row(f"{self.name}/{seed}", self.domain, self.name, data))
        return tuple(found.values())

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        outputs, length = record.get("outputs"), record.get("length", 0)
        if not isinstance(outputs, list) or not outputs or not all(isinstance(o, str) and o.strip() for o in outputs):
            raise DataError("The row has no `outputs`.", "Give a list of texts that the answer must hold.")
        if isinstance(length, bool) or not isinstance(length, int | float) or not 0 <= length < float("inf"):
            raise DataError(f"`length` is {length!r}.", "Give the tokens of the prompt, or leave it out.")
        data = {"outputs": outputs, "length": int(length), "subset": str(record.get("subset") or "")}
        asked = record.get("question", record.get("input"))
        return {**data, "question": asked} if isinstance(asked, str) else data

    def ask(self, row: Row) -> list[Message]:
        if "seed" in row.data:
            content = self._haystacks.prompt(row.data["seed"])
        elif "question" in row.data:
            content = row.data["question"]
        else:
            return super().ask(row)
        return [{"role": "user", "content": content}]

    def gold(self, row: Row) -> str:
        return ", ".join(row.data["outputs"])

    def score(self, row: Row, answer: str) -> Score:
        """1 for all values and no other; of RULER's rows the share of outputs found.

        Parts: `found` the share of the values given, `others` how many others are, `too_long`.
        """
        if "seed" not in row.data:
            return self._ruler_score(row, answer)
        expected = set(row.data["outputs"])
        limit = ANSWER_CHARS + 2 * sum(map(len, [*expected, *row.data["asked"]]))
        if len(answer) > limit:
            return Score(0.0, {"correct": 0.0, "found": 0.0, "others": 0.0, "too_long": 1.0})
        given = _values(answer, _form(row.data["outputs"])) - {key.lower() for key in row.data["asked"]}
        correct = float(given == expected)
        found = len(given & expected) / len(expected)
        return Score(
            correct, {"correct": correct, "found": found, "others": float(len(given - expected)), "too_long": 0.0}
        )

    @functools.cached_property
    def _haystacks(self) -> Haystacks:
        return Haystacks(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Haystacks)})

    def _ruler_score(self, row: Row, answer: str) -> Score:
        outputs, subset = row.data["outputs"], row.data["subset"]
        long = _is_paste(answer, outputs, self._haystack_chars(row))
        form = _form(outputs)
        wanted = {output.lower() for output in outputs}
        others = len(_values(answer, form) - wanted) if form and not long else 0
        share = (ruler_part if subset in PART_SUBSETS else ruler_all)(answer, outputs) if not long else 0.0
        reward = share if others <= max(MAX_STRANGERS, 2 * len(wanted)) else 0.0
        parts = {"correct": float(reward == 1.0), "found": share, "others": float(others), "too_long": float(long)}
        return Score(reward, parts)

    def _haystack_chars(self, row: Row) -> int:
        """Characters of the prompt, or as many as its `length` in tokens has, whichever are more; 0: not known."""
        prompt = row.data.get("messages") or [{"content": row.data.get("question", "")}]
        return max(sum(len(message.get("content", "")) for message in prompt), 4 * row.data["length"])


def _form(outputs: Sequence[str]) -> re.Pattern[str] | None:
    """The form that all outputs have, numbers or UUIDs; None where they have neither."""
    return next((form for form in (_DIGITS, _UUID) if all(form.fullmatch(output) for output in outputs)), None)


def _values(answer: str, form: re.Pattern[str] | None) -> set[str]:
    text = _GROUPING.sub("", answer) if form is _DIGITS else answer
    return {found.lower() for found in form.findall(text)} if form else set()


def _is_paste(answer: str, outputs: Sequence[str], haystack_chars: int) -> bool:
    """Whether an answer is so long that it may hold the outputs by copying: more than a quarter of the haystack."""
    quarter = min(haystack_chars // 4 or MAX_RULER_CHARS, MAX_RULER_CHARS)
    return len(answer) > max(ANSWER_CHARS + 2 * sum(map(len, outputs)), quarter)
