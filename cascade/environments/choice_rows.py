"""The forms in which people have multiple-choice rows: question, options, and which one is right."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from cascade.errors import DataError


@dataclass(frozen=True, slots=True)
class Choices:
    """A row, e.g. `Choices("2 + 2?", {"A": "3", "B": "4"}, "B")`."""

    question: str  # context included; empty where the row's prompt holds it
    options: Mapping[str, str]  # capital letter -> text
    answer: str  # a letter


def choices_of(record: Mapping[str, Any]) -> Choices:
    """A record's question, options and answer. Raises `DataError` for a record of no known form.

    Options are a list of `{letter: text}` (NeMo-Gym), a list of texts (MMLU, MMLU-Pro), `{letter: text}` (MedQA),
    `{label: [...], text: [...]}` (CommonsenseQA, QASC, ARC, OpenBookQA), or a right answer and distractors (SciQ,
    GPQA), which are put in an order that follows from their content. Labels that are no letters become letters.
    """
    options = record.get("options", record.get("choices"))
    question = _question(record)
    if isinstance(record.get("question"), Mapping) and options is None:
        options = record["question"].get("choices")
    if options is None and (distractors := _distractors(record)):
        return _shuffled(question, *distractors)
    if options is None and isinstance(record.get("template_metadata"), Mapping):
        options = []
    labelled = _labelled(options)
    letters = _letters(labelled)
    texts = {letter: text for letter, (_, text) in zip(letters, labelled, strict=True)}
    if len(texts) < len(labelled):
        raise DataError("Two options have the same letter.", "Give each a letter of its own.")
    labels = {label: letter for letter, (label, _) in zip(letters, labelled, strict=True) if label}
    return Choices(question, texts, _answer(record, labels, texts))


def _question(record: Mapping[str, Any]) -> str:
    """The question with what is to be read before it."""
    question = record.get("question", record.get("question_stem", record.get("Question", "")))
    if isinstance(question, Mapping):
        question = question.get("stem", "")
    context = record.get("context") or record.get("support") or record.get("para") or ""
    if not isinstance(question, str) or not isinstance(context, str):
        raise DataError("The question is not text.", "Give `question`, and `context` if there is any, as text.")
    return f"{context.strip()}\n\n{question}" if context.strip() else question


def _distractors(record: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The right answer and the wrong ones of SciQ and GPQA."""
    for right, wrong in (("correct_answer", "distractor{}"), ("Correct Answer", "Incorrect Answer {}")):
        if isinstance(record.get(right), str):
            found = [record.get(wrong.format(number)) for number in (1, 2, 3)]
            return record[right].strip(), [text.strip() for text in found if isinstance(text, str) and text.strip()]
    return None


def _shuffled(question: str, right: str, wrong: Sequence[str]) -> Choices:
    if not wrong or right in wrong:
        raise DataError("There are no wrong options, or the right one is among them.", "Give distinct options.")
    order = [right, *wrong]
    seed = hashlib.sha256("\n".join([question, *order]).encode(errors="surrogatepass")).digest()
    random.Random(seed).shuffle(order)
    return Choices(question, dict(zip(ascii_uppercase, order, strict=False)), ascii_uppercase[order.index(right)])


def _labelled(options: Any) -> list[tuple[str, str]]:
    """Options as pairs of label and text; the label is empty where options have none."""
    if isinstance(options, Mapping) and {"label", "text"} <= options.keys():
        labels, texts = options["label"], options["text"]
        if not isinstance(labels, Sequence) or not isinstance(texts, Sequence) or len(labels) != len(texts):
            raise DataError("`label` and `text` of the options are not lists of one length.", "Give a label a text.")
        return [_pair(label, text) for label, text in zip(labels, texts, strict=True)]
    if isinstance(options, Mapping):
        return [_pair(label, text) for label, text in options.items() if text is not None]
    if not isinstance(options, Sequence) or isinstance(options, str):
        raise DataError("The row has no options.", "Give `options` or `choices`.")
    if all(isinstance(option, Mapping) for option in options):
        if all("label" in option and "text" in option for option in options):
            return [_pair(option["label"], option["text"]) for option in options]
        return [_pair(label, text) for option in options for label, text in option.items() if text is not None]
    return [_pair("", text) for text in options]


def _pair(label: Any, text: Any) -> tuple[str, str]:
    if not isinstance(label, str | int) or not isinstance(text, str | int | float):
        raise DataError(f"The option {label!r:.40}: {text!r:.40} is not text.", "Give a letter and a text.")
    return str(label).strip(), str(text)


def _letters(labelled: Sequence[tuple[str, str]]) -> list[str]:
    """A capital letter an option: its label where all labels are single letters, else by position."""
    if len(labelled) > len(ascii_uppercase):
        raise DataError(f"The row has {len(labelled)} options.", f"Give at most {len(ascii_uppercase)}.")
    labels = [label.upper() for label, _ in labelled]
    if all(len(label) == 1 and label.isalpha() for label in labels):
        return labels
    return list(ascii_uppercase[: len(labelled)])


def _answer(record: Mapping[str, Any], labels: Mapping[str, str], texts: Mapping[str, str]) -> str:
    """The letter of the right option, which a row gives as letter, label, index or text."""
    keys = ("expected_answer", "answerKey", "answer_idx", "answer_index", "answer")
    said = next((record[key] for key in keys if record.get(key) not in (None, "")), None)
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(texts):
        return list(texts)[said]
    if isinstance(said, str):
        stripped = said.strip()
        if stripped in labels:
            return labels[stripped]
        if len(stripped) == 1 and stripped.isalpha():
            return stripped.upper()
        found = [letter for letter, text in texts.items() if text.strip() == stripped]
        if len(found) == 1:
            return found[0]
    raise DataError(f"The answer {said!r:.60} names no option.", "Give the letter, the index or the text of one.")
