"""math: grade-school word problems (Cobbe et al. 2021), answered by a number after `####`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cascade.environments.row_source import RowEnvironment
from cascade.errors import DataError
from cascade.types import Message, Row, Score, Split

INSTRUCTION = "Solve it step by step, then give the final number on a line of its own as: #### N"
HUB = "openai/gsm8k"
HUB_CONFIGURATION = "main"  # there is also "socratic", with other reference answers
MAX_DIGITS = 40  # longer is no answer to these questions, and int() is quadratic

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"####[ \t]*(?P<hash>[^\n]*)|\\boxed\{(?P<boxed>[^{}\n]*)\}")
_TOKEN = re.compile(r"[-+0-9.,/]*[0-9][-+0-9.,/]*")
_NUMBER = re.compile(r"(?P<top>[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]*)?)(?:/(?P<bottom>0*[1-9][0-9]*))?")


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RowEnvironment):
    """Rows with `question` and `answer`, which ends in `#### N`; the gold answer is the whole reference solution."""

    name: str = "gsm8k"
    domain: str = "math"
    train: str | None = HUB
    test: str | None = HUB
    test_rows: int = 1319  # all that GSM8K has

    def fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        question, answer = record.get("question"), record.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or final_number(answer) is None:
            raise DataError("No `question`, or no `answer` that ends in `#### N`.", f"Give both, like {HUB}.")
        return {"question": question, "answer": answer}

    def ask(self, row: Row) -> list[Message]:
        """The question, and how to end the answer."""
        return [{"role": "user", "content": f"{row.data['question']}\n\n{INSTRUCTION}"}]

    def gold(self, row: Row) -> str:
        """The reference solution without its calculator annotations `<<48/2=24>>`."""
        return _CALCULATOR.sub("", row.data["answer"])

    def score(self, row: Row, answer: str) -> Score:
        """1 when the last `#### N` or `\\boxed{N}` is the reference number; `format`: there was a number to read."""
        found, expected = final_number(answer), final_number(row.data["answer"])
        correct = float(found is not None and found == expected)
        return Score(correct, {"correct": correct, "format": float(found is not None)})

    def _source(self, source: str, split: Split) -> dict[str, Row]:
        return super()._source(f"{HUB}:{HUB_CONFIGURATION}" if source == HUB else source, split)


def final_number(text: str) -> Fraction | None:
    """The number after the last `####` or in the last `\\boxed{}`, e.g. `#### $1,250.00.` -> 1250; None without one."""
    marks = list(_FINAL.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    token = _TOKEN.search((last["hash"] if last["hash"] is not None else last["boxed"]).replace("\u2212", "-"))
    if token is None or len(token[0]) > MAX_DIGITS:
        return None
    number = _NUMBER.fullmatch(token[0].rstrip(".,/"))
    if number is None or not re.search("[0-9]", number["top"]):
        return None
    return Fraction(number["top"].replace(",", "").rstrip(".")) / int(number["bottom"] or 1)
