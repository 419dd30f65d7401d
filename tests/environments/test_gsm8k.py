"""GSM8K: reading, splitting and scoring; the real data where it lies beside the repository."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.gsm8k import Gsm8k, final_number
from cascade.errors import ConfigError, DataError
from cascade.types import Row

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gsm8k"


def question(number: int) -> dict[str, str]:
    return {
        "question": f"What is {number} + {number}?",
        "answer": f"It is <<{number}*2={number * 2}>>{number * 2}.\n#### {number * 2}",
    }


@pytest.fixture
def small(tmp_path: Path) -> Gsm8k:
    """40 train rows, of which one is doubled and one is in test; 10 test rows; one file plain, one gzipped."""
    train = [question(n) for n in range(40)] + [question(0), question(1000)]
    test = [question(n) for n in range(1000, 1010)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, test)).encode()))
    return Gsm8k(train=str(tmp_path / "train.jsonl"), test=str(tmp_path / "test.jsonl.gz"), validation_rows=8)


def row(answer: str) -> Row:
    return Row("gsm8k/x", "math", "gsm8k", {"question": "?", "answer": f"#### {answer}"})


def ids(environment: Gsm8k, split: str) -> list[str]:
    return [row.id for row in environment.rows(split)]  # type: ignore[arg-type]


def test_splits_share_no_question_and_lose_none(small: Gsm8k) -> None:
    train, validation, test = (ids(small, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (32, 8, 10)
    assert len({*train, *validation, *test}) == 50


def test_validation_is_the_same_for_every_seed_and_row_count(small: Gsm8k) -> None:
    other = Gsm8k(train=small.train, test=small.test, validation_rows=8, seed=7, train_rows=5)
    assert ids(other, "validation") == ids(small, "validation")
    assert len(ids(other, "train")) == 5
    third = Gsm8k(train=small.train, test=small.test, validation_rows=8, seed=8, train_rows=5)
    assert ids(third, "train") != ids(other, "train")


def test_gold_scores_one_and_has_no_calculator_annotation(small: Gsm8k) -> None:
    for each in small.rows("train"):
        assert "<<" not in small.gold(each)
        assert small.score(each, small.gold(each)).reward == 1.0


def test_the_prompt_asks_for_the_form_that_is_scored(small: Gsm8k) -> None:
    (message,) = small.messages(small.rows("test")[0])
    assert message.get("role") == "user"
    assert "What is 1000" in message.get("content", "")
    assert "#### N" in message.get("content", "")


@pytest.mark.parametrize(
    "answer",
    [
        "#### 1250", "so\n#### $1,250", "####1250.00", "#### 1250.", "#### **1,250**", "#### 1250 dollars",
        r"\boxed{1250}", r"\boxed{\$1{,}250} is wrong, \boxed{1,250.0}", "#### 7\n#### 1250", "#### 2500/2",
        "#### +01250",
    ],
)  # fmt: skip
def test_ways_to_write_the_right_number(answer: str) -> None:
    score = Gsm8k().score(row("1,250"), answer)
    assert (score.reward, score.parts) == (1.0, {"correct": 1.0, "format": 1.0})


@pytest.mark.parametrize(
    ("answer", "form"),
    [("#### 1251", 1), ("#### -1250", 1), ("#### 1250\n#### 7", 1), ("#### 1250.5", 1), ("1250", 0), ("#### ", 0),
     ("####\n1250", 0), ("", 0), ("#### 12,50", 0), ("#### 1.2.5.0", 0), ("#### 1250/0", 0),
     ("#### 1250 or so\n####", 0)],
)  # fmt: skip
def test_wrong_or_unreadable_answers_score_zero(answer: str, form: int) -> None:
    score = Gsm8k().score(row("1250"), answer)
    assert (score.reward, score.parts["format"]) == (0.0, form)


def test_garbage_never_raises() -> None:
    rng = random.Random(0)
    pieces = [
        "####",
        "\\boxed{",
        "}",
        "9" * 50_000,
        "-",
        "+",
        "/",
        ",",
        ".",
        "0",
        "\n",
        " ",
        "٣",
        "\u2212",
        "\ud800",
        "1e9999",
    ]
    for _ in range(2000):
        answer = "".join(rng.choices(pieces, weights=[4, 4, 4, 0.1] + [3] * 12, k=rng.randrange(30)))
        assert Gsm8k().score(row("9"), answer).reward in (0.0, 1.0)
    final_number("#" * 1_000_000)
    final_number("\\boxed{" * 200_000)


def test_a_minus_sign_of_typography_is_a_minus() -> None:
    assert final_number("#### \u22125") == -5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl.*Check the path"):
        Gsm8k(train=str(tmp_path / "nothing.jsonl"), test=str(tmp_path / "nothing.jsonl")).rows("train")


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"question": "q"}', '{"question": "q", "answer": "no number"}', "\x00\ud7ff"]
)
def test_a_damaged_file_is_a_data_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        Gsm8k(train=str(path), test=str(path)).rows("test")


def test_a_validation_split_that_takes_every_row_is_an_error(small: Gsm8k) -> None:
    with pytest.raises(DataError, match="Lower validation_rows"):
        Gsm8k(train=small.train, test=small.test, validation_rows=40).rows("train")


def test_row_counts_below_one_are_config_errors() -> None:
    wrong: list[dict[str, Any]] = [{"validation_rows": 0}, {"train_rows": 0}, {"test_rows": -1}]
    for keys in wrong:
        with pytest.raises(ConfigError):
            Gsm8k(**keys)


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"GSM8K is not at {DATA}; set CASCADE_DATA to the folder that holds gsm8k/"
)
def test_every_gold_of_the_real_data_scores_one() -> None:
    environment = Gsm8k(train=str(DATA / "train.jsonl.gz"), test=str(DATA / "test.jsonl.gz"))
    counted = 0
    for split in ("train", "validation", "test"):
        for each in environment.rows(split):
            assert environment.score(each, environment.gold(each)).reward == 1.0, each.id
            counted += 1
    assert counted == 7473 + 1319
