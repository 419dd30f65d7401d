"""Constraints on a few words, checked by IFEval's own checkers."""

from __future__ import annotations

import random

import pytest

from cascade.environments.word_constraints import WordConstraints
from cascade.errors import ConfigError
from cascade.types import Row

ENVIRONMENT = WordConstraints(train_rows=300, validation_rows=30, test_rows=30)


def row(question: str) -> Row:
    return Row("w/1", "instruction_following", "w", {"question": question, "answer": ""})


def test_every_gold_answer_is_right_and_short() -> None:
    for split in ("train", "validation", "test"):
        rows = ENVIRONMENT.rows(split)
        assert all(ENVIRONMENT.score(task, ENVIRONMENT.gold(task)).reward == 1.0 for task in rows)
        assert max(len(ENVIRONMENT.gold(task)) for task in rows) <= 34


def test_no_two_answers_serve_many_tasks() -> None:
    """An answer that ignores its question earns little, so there is something to learn."""
    rows = ENVIRONMENT.rows("train")
    fixed = random.Random(0).sample([ENVIRONMENT.gold(task) for task in rows], 40)
    best = max(sum(ENVIRONMENT.score(task, answer).reward for task in rows) for answer in fixed)
    assert best / len(rows) < 0.1


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("have cat dog", ["cat dog", "dog so cat"], ["cat", "dot cag", ""]),
        ("2 elm", ["elm elm", "elm so elm elm"], ["elm", ""]),
        ("3+ words", ["so so so", "a b c d"], ["so so", "so,so"]),
        ("2 []", ["[so] [so]", "[a][b]"], ["[so]", "so so", "[ ["]),
        ("end sky", ["sky", "so sky"], ["sky so", ""]),
        ("quoted", ['"so"'], ["so", '"so', 'so"', '"']),
        ("have cat dog,end sky,quoted", ['"cat dog sky"'], ["cat dog sky", '"cat sky"', '"cat dog sky so"']),
    ],
)
def test_right_and_wrong_answers(question: str, right: list[str], wrong: list[str]) -> None:
    assert [ENVIRONMENT.score(row(question), answer).reward for answer in right] == [1.0] * len(right)
    assert [ENVIRONMENT.score(row(question), answer).reward for answer in wrong] == [0.0] * len(wrong)


def test_the_share_tells_how_far_an_answer_got() -> None:
    assert ENVIRONMENT.score(row("have cat dog,end sky"), "so sky").parts == {"share": 0.5}


@pytest.mark.parametrize("answer", ["have cat dog,end sky", "so " * 100_000 + "cat dog sky", "\ud800", "\0"])
def test_the_prompt_itself_floods_and_broken_text_earn_nothing(answer: str) -> None:
    assert ENVIRONMENT.score(row("have cat dog,2 elm,end sky"), answer).reward == 0.0


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_constraints is 7"):
        WordConstraints(max_constraints=7)
