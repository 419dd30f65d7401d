r"""multiple_choice: questions with lettered options, of which one is right; by default it goes into `\boxed{}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.environments.choice_letter import MODES, chosen, compile_pattern
from cascade.environments.choice_letter import grade as grade
from cascade.environments.choice_rows import choices_of
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score

INSTRUCTION = r"Put the letter of the right option in \boxed{}."
_GOLD = {"lenient_answer_colon": "Answer: {}", "lenient_answer_colon_md": "Answer: {}"}


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(RowEnvironment):
    """Rows of NeMo-Gym's `mcqa` server, and of CommonsenseQA, QASC, ARC, OpenBookQA, SciQ, MMLU, MMLU-Pro and GPQA.

    `grading_mode` is for all rows, whatever they say themselves; without it a row's own counts, which is
    `strict_single_letter_boxed` where it has none. A row's `template_metadata.output_regex` comes first either way.
    """

    name: str = "multiple_choice"
    domain: str = "multiple_choice"
    grading_mode: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grading_mode is not None and self.grading_mode not in MODES:
            raise ConfigError(f"grading_mode is {self.grading_mode!r}.", f"Give one of {', '.join(MODES)}.")

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = choices_of(record)
        data = {"question": found.question, "options": dict(found.options), "expected_answer": found.answer}
        mode = record.get("grading_mode") or MODES[0]
        if mode not in MODES:
            raise DataError(f"`grading_mode` is {mode!r:.60}.", f"Give one of {', '.join(MODES)}.")
        if patterns := _patterns(record):
            data["patterns"] = patterns
        elif found.answer not in found.options:
            raise DataError(
                f"The answer {found.answer} is none of the options {', '.join(found.options) or '(there are none)'}.",
                "Give the letter of an option.",
            )
        return {**data, "grading_mode": mode}

    def ask(self, row: Row) -> list[Message]:
        """The question with its options a line each, and where the letter goes."""
        if not row.data["question"]:
            raise DataError(f"{row.id} has no question.", "Give rows a `question`, or a `prompt`.")
        shown = "\n".join(f"{letter}: {text}" for letter, text in row.data["options"].items())
        instruction = "Answer on a line of its own as: Answer: LETTER" if self._mode(row) in _GOLD else INSTRUCTION
        return [{"role": "user", "content": f"{row.data['question']}\n\n{shown}\n\n{instruction}"}]

    def gold(self, row: Row) -> str:
        """The right letter in the form that the row asks for. Raises `DataError` where no form of it scores 1."""
        letter = row.data["expected_answer"]
        plain = _GOLD.get(self._mode(row), r"\boxed{{{}}}").format(letter)
        for answer in (*(_written(pattern, letter) for pattern in row.data.get("patterns", ())), plain):
            if self.score(row, answer).reward == 1:
                return answer
        raise DataError(f"{row.id} has no answer that scores 1.", "Correct its `output_regex` or its options.")

    def score(self, row: Row, answer: str) -> Score:
        """1 for the expected letter; `answered`: a letter was chosen at all."""
        data = row.data
        letter = chosen(answer.strip(), data["options"], self._mode(row), data.get("patterns", ()))
        correct = float(letter == data["expected_answer"])
        return Score(correct, {"correct": correct, "answered": float(letter is not None)})

    def _mode(self, row: Row) -> str:
        return self.grading_mode or row.data["grading_mode"]


def _patterns(record: Mapping[str, Any]) -> list[str]:
    """A row's own regular expressions. Raises `DataError` for those that cannot name a letter."""
    metadata = record.get("template_metadata")
    found = metadata.get("output_regex") if isinstance(metadata, Mapping) else None
    patterns = [found] if isinstance(found, str) else found or []
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise DataError("`output_regex` is neither text nor a list of texts.", "Give regular expressions.")
    for pattern in patterns:
        if (compiled := compile_pattern(pattern)) is not None and compiled.groups > 1:
            raise DataError(f"{pattern[:60]!r} has {compiled.groups} groups.", "Give it one, around the letter.")
    return patterns


def _written(pattern: str, letter: str) -> str:
    """What a simple pattern matches, with the letter in its group: `ANSWER IS\\s*([A-Za-z])` -> `ANSWER IS B`."""
    text = re.sub(r"\(\?[=!<:][^()]*\)", "", pattern)
    text = re.sub(r"\((?:[^()\\]|\\.)*\)", lambda _: letter, text)
    text = re.sub(r"\\s[*+?]?", " ", text)
    return re.sub(r"\\(.)", r"\1", text).strip()
