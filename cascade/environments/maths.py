r"""math: problems with one answer, which is right when math-verify finds it equal to the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from cascade.environments.boxed import OPENING, boxed, last_boxed
from cascade.environments.math_answer import costly, hedged, load, restated, same_text, verified
from cascade.environments.python_tool import UsesPython, without_calls
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score

INSTRUCTION = r"Work it out step by step, and put the final answer inside \boxed{}."
HASH = "####"  # how GSM8K marks an answer
MAX_ANSWER = 1_000_000  # characters of all that is judged; a longer one was not meant to be read
WINDOW = 8_000  # characters of a text without a clear mark that math-verify searches: its patterns take quadratic time
MAX_BOXES = 20  # different ones in one answer
MAX_GOLD = 500  # characters of a reference that carries no mark; a longer one is a solution, not an answer

QUESTIONS = ("question", "problem", "Question", "Problem", "query")
ANSWERS = ("expected_answer", "ground_truth", "final_answer", "answer", "Answer", "solution", "Solution")

_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"))
_LETTER_MARK = re.compile(r"(?:^|\n)A: *(?P<answer>[^\n]+)\s*$")  # how GSM8K's graded model solutions end
_AMOUNT = r"\$?(-?[0-9][0-9,]*(?:\.[0-9]+)?)"
_ALTERNATIVES = re.compile(rf"(?i)\banswer\b.{{0,80}}?{_AMOUNT},?\s*or\s+(?:maybe\s+|perhaps\s+|possibly\s+)?{_AMOUNT}")


class Final(NamedTuple):
    """The final answer of a text."""

    text: str  # what math-verify reads
    expression: str | None  # the one marked answer; None where there is none, or several
    marked: bool


@dataclass(frozen=True, kw_only=True)
class Maths(UsesPython, RowEnvironment):
    r"""Rows of NeMo-Gym's `math_with_judge`, of TRL, of GSM8K, and of the usual sets of the hub.

    The reference is `expected_answer`, `reward_model.ground_truth`, `ground_truth`, `final_answer`, `answer` or
    `solution`, whichever comes first; of a longer text, what stands in its last box or after its last `####`. Equal
    is what math-verify calls equal, as NeMo-Gym's `math_with_judge` has it without its judge. `extraction: boxed`
    takes an answer from its last `\boxed{}` (or after `####`) only; `anywhere`, as NeMo-Gym does, also from
    unmarked text. With `tool_integrated` the model may call Python, and the last turn's text is judged.
    """

    name: str = "maths"
    domain: str = "math"
    extraction: Literal["boxed", "anywhere"] = "anywhere"
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.offer_python()
        if not self.deadline_s > 0:
            raise ConfigError(f"deadline_s is {self.deadline_s}.", "Give seconds, e.g. 5.")

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`; a demonstration at the end of its `messages` is left out of the prompt."""
        data = super().read(record)
        messages = data.pop("messages", [])
        while messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        return {**data, "messages": messages} if messages else data

    def fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = reference_answer(record)
        if last_boxed(f"{OPENING}{{{answer}}}") != answer:
            raise DataError(f"The braces of the answer {answer[:60]!r} do not match.", "Repair it.")
        question = next((record[key] for key in QUESTIONS if isinstance(record.get(key), str)), None)
        return {"answer": answer} if question is None else {"question": question, "answer": answer}

    def ask(self, row: Row) -> list[Message]:
        if "question" not in row.data:
            raise DataError(f"{row.id} has neither a prompt nor a question.", f"Give it {' or '.join(QUESTIONS[:2])}.")
        return [{"role": "user", "content": f"{row.data['question']}\n\n{INSTRUCTION}"}]

    def gold(self, row: Row) -> str:
        return f"{OPENING}{{{row.data['answer']}}}"

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """The row's own, else Python where it may be called."""
        return super().tools(row) or ([self.python_schema()] if self.tool_integrated else None)

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        """What Python says to the calls of the latest turn; None when it has none, or none is ever answered."""
        if not self.tool_integrated:
            return None
        return self.python_replies(row, answers, self.tools(row) or ()) or None

    def score(self, row: Row, answer: str) -> Score:
        """1 for an answer equal to the reference. `marked`: it was in a box, or after `####`. Of a refused answer a
        part says why: `too_long`, `costly`, `hedged` or `restated`."""
        load()
        answer = without_calls(answer) if self.tool_integrated else answer
        if len(answer) > MAX_ANSWER:
            return Score(0.0, {"correct": 0.0, "too_long": 1.0})
        gold, final = row.data["answer"], final_answer(answer)
        marked = {"marked": float(final.marked)}
        if not final.marked and self.extraction == "boxed":
            return Score(0.0, {"correct": 0.0, **marked})
        if final.expression is not None and same_text(gold, final.expression):
            return Score(1.0, {"correct": 1.0, **marked})
        why = self._refused(final, gold)
        if not why:
            in_box = self.extraction == "boxed" and OPENING in final.text
            found = verified(gold, final.text, anywhere=not in_box)
            if found is None:
                return Score(0.0, {"correct": 0.0, **marked})
            if not final.marked and hedged(found, gold):
                why = "hedged"
            elif restated(final.expression or found, gold, row.data.get("question", "")):
                why = "restated"
        return Score(0.0, {"correct": 0.0, **marked, why: 1.0}) if why else Score(1.0, {"correct": 1.0, **marked})

    def _refused(self, final: Final, gold: str) -> str:
        shown = final.expression if final.expression is not None else last_line(final.text)
        if costly(shown) and not costly(gold):
            return "costly"
        if hedged(shown, gold) if final.marked else _several(shown):
            return "hedged"
        return ""


def final_answer(text: str) -> Final:
    r"""The last box of a text, else what follows its last `####`, else the end of the text.

    Different boxes may be parts of one answer, `\boxed{2}` and `\boxed{3}`: math-verify decides which belong together.
    More than `MAX_BOXES` of them are no answer.
    """
    boxes = boxed(text)
    if boxes:
        content, after = last_boxed(text) or "", text[text.rfind(boxes[-1]) :].lower()
        clear = all(box == boxes[-1] for box in boxes) and "final answer" not in after
        if clear and not re.match(r"[\s})\\\]$]{0,8}%", after[len(boxes[-1]) :]):
            return Final(f"{OPENING}{{{content}}}", content, True)
        start = max(text.rfind(OPENING) - WINDOW // 2, 0)
        return Final(text[start : start + WINDOW] if len(set(boxes)) <= MAX_BOXES else "", None, True)
    _, found, after = text.rpartition(HASH)
    if found:
        line = after.partition("\n")[0].strip()
        return Final(line, line, True)
    return Final(text[-WINDOW:], None, False)


def last_line(text: str) -> str:
    """The last line of a text that is not empty, or its last 300 characters."""
    return text.rstrip().rpartition("\n")[2][-300:]


def reference_answer(record: Mapping[str, Any]) -> str:
    """The one answer that a record says is right. Raises `DataError` where it says none."""
    model = record.get("reward_model")
    found = [model.get("ground_truth")] if isinstance(model, Mapping) else []
    for value in [record.get(ANSWERS[0]), *found, *(record.get(key) for key in ANSWERS[1:])]:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = repr(value)
        if isinstance(value, str) and (answer := _unwrapped(value)):
            return answer
    raise DataError("The row has no final answer.", f"Give it {', '.join(ANSWERS)}, or `reward_model.ground_truth`.")


def _unwrapped(text: str) -> str:
    """The final answer of a reference, without math delimiters; `""` for a solution that marks none."""
    final = final_answer(text)
    if final.marked:
        text = final.expression if final.expression is not None else last_boxed(text) or ""
    elif found := _LETTER_MARK.search(text):
        text = found["answer"]
    elif len(text) > MAX_GOLD:
        return ""
    text = text.strip()
    for opening, closing in _DELIMITERS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)].strip()
            text = text if opening in inner else inner
    return text


def _several(line: str) -> bool:
    """Whether a line gives two different numbers as the answer, e.g. `The answer is 42 or 43`."""
    found = _ALTERNATIVES.search(line)
    return found is not None and len({Fraction(number.rstrip(",").replace(",", "")) for number in found.groups()}) > 1
