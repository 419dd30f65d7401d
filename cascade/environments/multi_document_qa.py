"""long_context: questions over many documents, answered in a few words (HotpotQA, SQuAD, NeMo-Gym's `lc_judge`)."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.environments.answer_judge import is_equivalent
from cascade.environments.documents import Paragraph, Paragraphs, counter, filled, paragraphs_of, shown
from cascade.environments.records import messages_of
from cascade.environments.row_source import RowEnvironment
from cascade.environments.string_match import exact, f1, said, short_answer
from cascade.errors import ConfigError, DataError
from cascade.judging.client import judge_of
from cascade.judging.config import JudgeConfig
from cascade.types import Message, Row, Score, Split

ASKED = "Answer the question from the documents below."
HOW = "Give only the answer, in as few words as possible."
NONE = "unanswerable"
HOW_NONE = f"If the documents do not hold the answer, write: {NONE}"
MAX_EXTRACTED_CHARS = 120  # of an expected answer that a row's own expression is used for, as in NeMo-Gym
REGEX_TIMEOUT_S = 0.5  # of that expression, which a hostile answer could keep busy for ever
_QUESTION_LINE = "\nQUESTION:"  # how rows made for `lc_judge` end: with one of these and the question
_TEXT_END = "</text>\n\n"


@dataclass(frozen=True, kw_only=True)
class MultiDocumentQa(RowEnvironment):
    """Rows with a question, an answer and paragraphs, or with a finished prompt and `expected_answer`.

    HotpotQA (`question`, `answer`, `context`, `supporting_facts`), as its authors or the hub have it, and SQuAD
    (`question`, `context`, `answers`): the prompt shows the paragraphs that hold the answer among distractors, at
    places that the seed and the row decide. Distractors are the row's own, then paragraphs of other rows of its split.
    NeMo-Gym's rows (`responses_create_params`, `expected_answer`) bring their prompt.

    The answer is right when its words are those of an expected answer (`string_match.said`). Where they are not and
    there is a judge, it is right when the judge finds it equivalent.

    Args:
        target_tokens: length of the prompt, paragraphs and all.
        distractors: at most so many; None: as many as fit.
        tokenizer: folder or hub id of what counts tokens; None: four characters each.
        unanswerable: whether to keep SQuAD's questions without an answer, of which the answer is `unanswerable`.
        max_answer_chars: a longer answer is wrong, and no judge is asked.
    """

    name: str = "multi_document_qa"
    domain: str = "long_context"
    target_tokens: int = 4096
    distractors: int | None = None
    tokenizer: str | None = None
    unanswerable: bool = True
    max_answer_chars: int = 4000
    judge: JudgeConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (("target_tokens", 1), ("max_answer_chars", 1), ("distractors", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ConfigError(f"{key} is {value}.", f"Give at least {least}.")

    @property
    def concurrency(self) -> int:
        """Verdicts that are waited for at once."""
        return self.judge.concurrency if self.judge else 1

    def metrics(self) -> dict[str, float]:
        """What the judge was asked in this process, and what it cost; nothing without a judge."""
        return judge_of(self.judge).metrics() if self.judge else {}

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        prompt = messages_of(record)
        question = record.get("question")
        if question is None and prompt:
            question = _asked(prompt[-1].get("content", ""))
        if not isinstance(question, str) or not question.strip():
            raise DataError("The row has no `question`.", "Give it as text.")
        data: dict[str, Any] = {"question": question, "answers": _answers(record)}
        metadata = record.get("template_metadata")
        short = max(map(len, data["answers"])) <= MAX_EXTRACTED_CHARS
        if short and isinstance(metadata, Mapping) and metadata.get("output_regex"):
            data["output_regex"] = _expression(metadata["output_regex"])
        if not prompt:
            paragraphs = paragraphs_of(record)
            data |= {"gold": [list(p) for p in paragraphs.gold], "others": [list(p) for p in paragraphs.others]}
            data["may_be_unanswerable"] = isinstance(record.get("context"), str)
        return data

    def ask(self, row: Row) -> list[Message]:
        """The documents between the instruction and the question. The same for every call with the same seed."""
        data = row.data
        if not data["gold"]:
            raise DataError(f"{row.id} has neither a prompt nor paragraphs.", "Give `context`, or a `prompt`.")
        head = f"{ASKED} {HOW}\n\n"
        tail = f"Question: {data['question']}\n{HOW}" + f" {HOW_NONE}" * data["may_be_unanswerable"]
        count = counter(self.tokenizer)
        own = Paragraphs(*(tuple(Paragraph(*pair) for pair in data[key]) for key in ("gold", "others")))
        rng = random.Random(f"{self.seed}/{row.id}")
        room = self.target_tokens - count(head) - count(tail)
        documents = filled(own, self._corpus[self._split_of(row)], rng, room, self.distractors, count)
        body = "".join(shown(paragraph, number) for number, paragraph in enumerate(documents, 1))
        return [{"role": "user", "content": f"{head}{body}{tail}"}]

    def gold(self, row: Row) -> str:
        """The first expected answer, in the form that the row's own expression finds where it has one."""
        answer = row.data["answers"][0]
        return _in_form(row.data["output_regex"], answer) if "output_regex" in row.data else answer

    def score(self, row: Row, answer: str) -> Score:
        """1 for an expected answer, by its words or by the judge's verdict.

        Parts: `exact` and `f1` as SQuAD and HotpotQA report them; `string_match` whether the words sufficed; `judged`
        and `no_verdict` whether a judge was asked, and whether its reply was none; `too_long`.
        Raises `VerifierFailure` INFRASTRUCTURE where no judge answers.
        """
        expected, question = row.data["answers"], row.data["question"]
        if len(answer) > self.max_answer_chars:
            return Score(0.0, {"correct": 0.0, "too_long": 1.0})
        candidate = self._candidate(row, answer)
        matched = said(candidate, expected, question)
        parts = {"exact": float(exact(candidate, expected)), "f1": f1(candidate, expected)}
        parts["string_match"] = float(matched)
        if matched or self.judge is None or not answer.strip():
            return Score(float(matched), {"correct": float(matched), **parts})
        shown_answer = candidate if "output_regex" in row.data else answer
        verdict = is_equivalent(self.judge, question, " or ".join(expected), shown_answer, self.max_answer_chars)
        judged = {"judged": 1.0, "no_verdict": float(verdict is None)}
        return Score(float(verdict is True), {"correct": float(verdict is True), **parts, **judged})

    def _candidate(self, row: Row, answer: str) -> str:
        """What the row's own expression finds last; where there is none or it finds nothing, the `short_answer`."""
        found = _last_match(row.data["output_regex"], answer) if "output_regex" in row.data else None
        return short_answer(answer) if found is None else found

    def _source(self, source: str, split: Split) -> dict[str, Row]:
        rows = super()._source(source, split)
        if self.unanswerable:
            return rows
        return {key: row for key, row in rows.items() if row.data["answers"] != [NONE]}

    @functools.cached_property
    def _corpus(self) -> Mapping[Split, Sequence[Paragraph]]:
        """The distinct paragraphs of every split: a prompt shows none of another split's."""
        splits: tuple[Split, ...] = ("train", "validation", "test")
        return {split: _distinct(self.rows(split)) for split in splits}

    def _split_of(self, row: Row) -> Split:
        if row.id in self._test:
            return "test"
        return "validation" if row.id in self._validation else "train"


def _distinct(rows: Sequence[Row]) -> list[Paragraph]:
    found = {
        pair[1]: Paragraph(*pair) for row in rows for pair in (*row.data.get("gold", ()), *row.data.get("others", ()))
    }
    return list(found.values())


def _answers(record: Mapping[str, Any]) -> list[str]:
    """The expected answers, the first of equal ones only. Raises `DataError` where there is none."""
    metadata = record.get("metadata")
    found = record.get("expected_answer", record.get("answers", record.get("answer")))
    if found is None and isinstance(metadata, Mapping):
        found = metadata.get("expected_answer")
    if isinstance(found, Mapping):  # SQuAD on the hub; no text: the question has no answer
        found = found.get("text") or [NONE]
    if isinstance(found, int | float):
        found = str(found)
    listed = [found] if isinstance(found, str) else found or [NONE] if isinstance(found, Sequence) else [None]
    texts = [answer.get("text") if isinstance(answer, Mapping) else answer for answer in listed]
    answers = [answer for answer in texts if isinstance(answer, str) and answer.strip()]
    if len(answers) < len(texts):
        raise DataError("The row has no answer.", "Give `answer`, `answers` or `expected_answer` as text.")
    return list(dict.fromkeys(answers))


def _asked(prompt: str) -> str:
    """The question at the end of a finished prompt: behind `QUESTION:` or the end of a text, else the end of it all."""
    for mark in (_QUESTION_LINE, _TEXT_END):
        _, found, question = f"\n{prompt}".rpartition(mark)
        if found and question.strip():
            return question.strip()
    return prompt.strip()


def _expression(pattern: Any) -> str:
    import regex  # re knows no timeout

    try:
        regex.compile(pattern)
    except (regex.error, TypeError, OverflowError, RecursionError):
        raise DataError(f"`output_regex` is {str(pattern)[:80]!r}.", "Give a regular expression.") from None
    return pattern


def _last_match(pattern: str, text: str) -> str | None:
    """The first group that is not empty of the last match, or all of it; None without one, or not in time."""
    import regex

    last = None
    try:
        for found in regex.finditer(pattern, text, regex.MULTILINE | regex.DOTALL, timeout=REGEX_TIMEOUT_S):
            last = found
    except TimeoutError:
        return None
    if last is None:
        return None
    return next((group for group in last.groups() if group and group.strip()), last[0]).strip()


def _in_form(pattern: str, answer: str) -> str:
    """The answer in the likeliest of the forms that rows' expressions ask for; as it is where none of them fits."""
    tags = re.findall(r"<(\w+)>", pattern)
    forms = [f"\\boxed{{{answer}}}", f"(({answer}))", f"**{answer}**", *(f"<{tag}>{answer}</{tag}>" for tag in tags)]
    return next((form for form in forms if _last_match(pattern, form) == answer.strip()), answer)
