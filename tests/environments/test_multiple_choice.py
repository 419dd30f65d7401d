r"""Multiple choice: the letter that counts, the rows people have, and answers that were made to please."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.choice_letter import MODES, chosen, grade
from cascade.environments.multiple_choice import MultipleChoice
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.types import Row

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "multiple_choice"
OPTIONS = {"A": "Circle", "B": "Square", "C": "a circle", "D": r"$\frac{1}{2}$"}
STRICT, BOXED, COLON, COLON_MD = MODES

# What NeMo-Gym's `mcqa` server (0.4) extracts, by reading its patterns; `None`: nothing.
AS_THE_SERVER: list[tuple[str, str, str | None]] = [
    (STRICT, r"\boxed{B}", "B"),
    (STRICT, r"so \boxed{ [B]. } it is", "B"),
    (STRICT, "\\boxed{\nB\n}", "B"),
    (STRICT, r"\boxed{{B}}", "B"),
    (STRICT, r"\boxed{\boxed{B}}", "B"),
    (STRICT, r"\\boxed{B}", "B"),
    (STRICT, r"\boxed{42: B}", "B"),
    (STRICT, r"\boxed{b}", None),
    (STRICT, r"\boxed {B}", None),
    (STRICT, r"\boxed{\text{B}}", None),
    (STRICT, r"\boxed{E}", None),
    (STRICT, r"\boxed{B or C}", None),
    (STRICT, r"\boxed{A, B}", None),
    (STRICT, r"\boxed{AB}", None),
    (STRICT, r"\boxed{Square}", None),
    (STRICT, r"\boxed{Ｂ}", None),
    (STRICT, r"\boxed{ب}", None),
    (STRICT, "The answer is B.", None),
    (STRICT, "Answer: B", None),
    (STRICT, "", None),
    (BOXED, r"\boxed{B}", "B"),
    (BOXED, r"\boxed{Square}", "B"),
    (BOXED, r"\boxed{\text{the  SQUARE}}", "B"),
    (BOXED, r"\boxed{Circle}", "A"),
    (BOXED, r"\boxed{a circle}", None),  # "Circle" is in it too
    (BOXED, r"\boxed{$\frac{1}{2}$}", None),  # read up to the first closing brace
    (BOXED, "Square", None),
    (COLON, "Answer: B", "B"),
    (COLON, "answer :\n b", "B"),
    (COLON, r"Answer: \text{B}", "B"),
    (COLON, "Answer:  SQUARE ", "B"),
    (COLON, "Answer: a  circle", "C"),
    (COLON, "Answer: B.", None),
    (COLON, "Answer: A or B", None),
    (COLON, "Answer: A\nAnswer: B", "A"),
    (COLON, "**Answer: B**", None),
    (COLON_MD, "**Answer: B**", "B"),
    (COLON_MD, "__Answer__: b.", "B"),
    (COLON_MD, "Answer: Boron", None),
    (COLON_MD, "Answer: E", None),
]


def row(expected: str = "B", **more: Any) -> Row:
    data = {"question": "?", "options": OPTIONS, "expected_answer": expected, "grading_mode": STRICT, **more}
    return Row("mc/x", "multiple_choice", "mc", data)


@pytest.mark.parametrize("mode, answer, letter", AS_THE_SERVER)
def test_each_mode_reads_what_nemo_gym_reads(mode: str, answer: str, letter: str | None) -> None:
    assert chosen(answer, OPTIONS, mode) == letter


def test_of_several_boxes_the_last_with_a_single_letter_counts() -> None:
    assert chosen(r"\boxed{A} no, \boxed{B}", OPTIONS) == "B"
    assert chosen(r"\boxed{A}\boxed{B}", OPTIONS) == "B"
    assert chosen(r"\boxed{B}, which I put in \boxed{} as asked", OPTIONS) == "B"
    assert chosen(r"\boxed{B} since \boxed{42}", OPTIONS) == "B"
    assert chosen(r"\boxed{B} \boxed{E}", OPTIONS) is None  # the last letter is no option


@pytest.mark.parametrize("expected", "ABCD")
@pytest.mark.parametrize(
    "answer",
    [
        "A B C D", r"\boxed{A B C D}", r"\boxed{A or B or C or D}", r"\boxed{A/B/C/D}", r"\boxed{ABCD}",
        r"\boxed{any}", r"\boxed{Circle Square a circle}", r"\boxed{all of them}", "",
        r"\boxed{", r"\boxed{}", "The answer is A B C D", r"\boxed{correct}", r"\boxed{\text{A}}\boxed{\text{B}}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_names_every_option_never_scores(mode: str, answer: str, expected: str) -> None:
    assert MultipleChoice().score(row(expected, grading_mode=mode), answer).reward == 0


@pytest.mark.parametrize(
    "answer",
    [
        r"\boxed{A}\boxed{B}\boxed{C}\boxed{D}",
        r"\boxed{D} \boxed{C} \boxed{B} \boxed{A}",
        "Answer: A, B, C, D",
        "Answer: A\nAnswer: B\nAnswer: C\nAnswer: D",
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_an_answer_for_every_option_scores_for_one_of_them_at_most(mode: str, answer: str) -> None:
    assert sum(MultipleChoice().score(row(each, grading_mode=mode), answer).reward for each in "ABCD") <= 1


def test_a_pattern_of_the_row_comes_before_its_mode_and_its_last_match_counts() -> None:
    environment = MultipleChoice()
    spoken = row(patterns=[r"ANSWER IS\s*([A-Za-z])"])
    assert environment.score(spoken, "Answer is A? No, answer is b").reward == 1
    assert environment.score(spoken, r"ANSWER IS A \boxed{B}").reward == 0
    assert environment.score(spoken, r"\boxed{B}").reward == 1  # no match: as the mode says
    assert environment.score(row(patterns=["(["]), r"\boxed{B}").reward == 1  # no regular expression
    several = row(patterns=[r"Answer\s*:\s*([A-Z])", r"Antwort\s*:\s*([A-Z])"])
    assert environment.score(several, "Antwort: B").reward == 1
    assert environment.score(row(patterns=[r"Answer:\s*(.+)"]), "Answer: square").reward == 1


@pytest.mark.parametrize("letter", ["ب", "ব", "Ｂ"])
def test_letters_of_other_scripts_count_where_a_pattern_of_the_row_takes_them(letter: str) -> None:
    assert MultipleChoice().score(row(patterns=["Answer: (.)"]), f"Answer: {letter}").reward == 1


def test_a_catastrophic_pattern_is_given_up_as_the_answers_fault() -> None:
    started = time.monotonic()
    with pytest.raises(VerifierFailure) as failure:
        chosen("a" * 200_000 + "!", OPTIONS, patterns=[r"(?:a|a|b)+(?:a|aa)+$"])
    assert failure.value.kind is FailureKind.TASK
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "answer",
    [
        "\\boxed{" + " " * 1_000_000, "\\boxed{B" + " " * 1_000_000, "\\boxed{" * 140_000, "\\boxed{A" * 120_000,
        "Answer:" + " " * 1_000_000, "Answer " * 140_000, "*" * 1_000_000, "Answer:\n" * 120_000,
        "Answer: " + "\\text{" * 140_000 + "}" * 140_000, "\ud800\x00" * 500_000, "\\boxed{A B C D}" * 60_000,
    ],
    ids=range(11),
)  # fmt: skip
def test_a_million_hostile_characters_score_nothing_in_little_time(mode: str, answer: str) -> None:
    started = time.process_time()
    assert MultipleChoice().score(row(grading_mode=mode), answer).reward == 0
    assert time.process_time() - started < 2


def test_garbage_never_raises() -> None:
    rng = random.Random(0)
    pieces = ["\\boxed{", "}", "A", "B", "Answer:", "\\text{", "\n", " ", "*", "\ud800", "ب", "Square", "\x00", "{"]
    for _ in range(3000):
        answer = "".join(rng.choices(pieces, k=rng.randrange(20)))
        for mode in MODES:
            assert chosen(answer, OPTIONS, mode, [r"(?i)answer:\s*(.*)"]) in {
                *"ABCD",
                None,
                "ب",
                "}",
                "{",
                *map(str, "AB"),
            }


def test_grade_is_the_strict_mode_alone() -> None:
    assert grade(r"\boxed{B}", "B", "ABCD")
    assert not grade(r"\boxed{E}", "E", "ABCD")
    assert not grade("B", "B", "ABCD")


FORMS: list[dict[str, Any]] = [
    {"options": [{"A": "3"}, {"B": "4"}], "expected_answer": "B", "responses_create_params": {"input": "2+2?"}},
    {"question": "2+2?", "context": "Sums.", "options": ["3", "4"], "answer": 1},
    {"question": "2+2?", "choices": {"label": ["A", "B"], "text": ["3", "4"]}, "answerKey": "B"},
    {"question": "2+2?", "choices": {"label": ["1", "2"], "text": ["3", "4"]}, "answerKey": "2"},
    {
        "question": {"stem": "2+2?", "choices": [{"label": "A", "text": "3"}, {"label": "B", "text": "4"}]},
        "answerKey": "B",
    },
    {"question_stem": "2+2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"},
    {"question": "2+2?", "subject": "maths", "choices": ["3", "4"], "answer": 1},
    {"question": "2+2?", "options": ["3", "4"], "answer": "B", "answer_index": 1, "cot_content": ""},
    {"question": "2+2?", "options": {"A": "3", "B": "4"}, "answer": "4", "answer_idx": "B"},
    {"question": "2+2?", "options": ["3", "4"], "answer": "4"},
]


@pytest.mark.parametrize("record", FORMS)
def test_rows_of_every_form_have_the_same_answer_and_a_gold_that_scores(record: dict[str, Any]) -> None:
    environment = MultipleChoice()
    data = environment.read(record)
    assert (data["options"], data["expected_answer"]) == ({"A": "3", "B": "4"}, "B")
    read = Row("mc/x", "multiple_choice", "mc", data)
    assert environment.gold(read) == r"\boxed{B}"
    assert environment.score(read, environment.gold(read)).parts == {"correct": 1.0, "answered": 1.0}
    assert "2+2?" in environment.messages(read)[-1].get("content", "")


def test_sciq_options_come_in_an_order_that_depends_on_the_row_alone() -> None:
    letters = set()
    for number in range(12):
        wrong = {f"distractor{n}": f"w{n}" for n in (1, 2, 3)}
        record = {"question": f"Q{number}?", "support": "S.", "correct_answer": "right", **wrong}
        data = MultipleChoice().read(record)
        assert data == MultipleChoice().read(record)
        assert data["options"][data["expected_answer"]] == "right"
        assert data["question"].startswith("S.")
        letters.add(data["expected_answer"])
    assert len(letters) > 1


def test_the_prompt_shows_every_option_and_asks_for_what_is_scored() -> None:
    (message,) = MultipleChoice().messages(row())
    content = message.get("content", "")
    assert "B: Square" in content
    assert r"\boxed{}" in content
    (message,) = MultipleChoice(grading_mode=COLON).messages(row())
    assert "Answer: LETTER" in message.get("content", "")


@pytest.mark.parametrize(
    "record, why",
    [
        ({}, "no options"),
        ({"question": "?", "options": ["a", "b"]}, "names no option"),
        ({"question": "?", "options": ["a", "b"], "answer": 2}, "names no option"),
        ({"question": "?", "options": ["a", "b"], "answer": True}, "names no option"),
        ({"question": "?", "choices": {"label": ["A"], "text": ["a", "b"]}, "answerKey": "A"}, "one length"),
        ({"options": [{"A": "a"}, {"B": "b"}], "expected_answer": "C"}, "none of the options"),
        ({"options": [{"A": "a"}, {"a": "b"}], "expected_answer": "A"}, "same letter"),
        ({"options": [str(n) for n in range(27)], "answer": 0}, "27 options"),
        ({"options": ["a", "b"], "answer": 0, "grading_mode": "judge"}, "judge"),
        ({"options": ["a", "b"], "answer": 0, "template_metadata": {"output_regex": "(a)(b)"}}, "2 groups"),
        ({"options": ["a", "b"], "answer": 0, "template_metadata": {"output_regex": [1]}}, "output_regex"),
        ({"question": 3, "options": ["a", "b"], "answer": 0}, "not text"),
    ],
)
def test_malformed_rows_are_data_errors_that_say_why(record: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        MultipleChoice().read(record)


@pytest.mark.parametrize(
    "pattern, gold",
    [
        (r"\\boxed\{\s*([A-Za-z])\s*\}", r"\boxed{ B }"),
        (r"Option Selected:\s*([A-Za-z])\s*", "Option Selected: B"),
        (r"Answer\s*:\s*(?!Answer)\s*([A-Za-z])\s*", "Answer :  B"),
        (r"ANSWER IS\s*([A-Za-z])\s*", "ANSWER IS B"),
        (r"Final Choice:\s*([A-Za-z])\s*", "Final Choice: B"),
    ],
)
def test_gold_is_in_the_form_that_the_rows_own_pattern_reads(pattern: str, gold: str) -> None:
    environment, asked = MultipleChoice(), row(patterns=[pattern])
    assert environment.gold(asked) == gold
    assert environment.score(asked, gold).reward == 1


def test_a_mode_for_all_rows_goes_before_their_own_and_a_wrong_one_is_refused() -> None:
    assert MultipleChoice(grading_mode=COLON_MD).score(row(), "**Answer: B**").reward == 1
    with pytest.raises(ConfigError, match="strict_single_letter_boxed"):
        MultipleChoice(grading_mode="strict")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no rows at {DATA}; set CASCADE_DATA to the folder of multiple_choice/")
def test_every_gold_of_real_rows_scores_one_and_no_other_letter_does() -> None:
    environment = MultipleChoice()
    with gzip.open(DATA / "rows.jsonl.gz", "rt") as lines:
        for line in lines:
            read = Row("mc/x", "multiple_choice", "mc", environment.read(json.loads(line)))
            earned = {letter: environment.score(read, rf"\boxed{{{letter}}}").reward for letter in read.data["options"]}
            assert sum(earned.values()) == 1
            assert environment.score(read, environment.gold(read)).reward == 1
