"""One wrong token: the issue leaves exactly one repair, and a repair is judged by running it."""

from __future__ import annotations

import pytest

from cascade.environments.one_token_repair import (
    INPUTS,
    OneTokenRepair,
    agrees,
    check_of,
    differ_in,
    one_token_away,
)
from cascade.errors import DataError
from cascade.types import Row

ENVIRONMENT = OneTokenRepair(seed=3, train_rows=300, validation_rows=100, test_rows=100)
ROWS = {split: ENVIRONMENT.rows(split) for split in ("train", "validation", "test")}
ROW = Row(
    "swe/1",
    "swe",
    "one_token_repair",
    {"question": "x<3 and x<8 fails at 5: left above 3", "answer": "x>3 and x<8"},
)


def test_gold_is_one_token_from_the_bug_and_mends_the_input_that_failed() -> None:
    for row in (row for rows in ROWS.values() for row in rows):
        bug, _, rest = row.data["question"].partition(" fails at ")
        failing, said = rest.split(": ")
        wrong, right = check_of(bug), check_of(row.data["answer"])
        assert right in one_token_away(wrong)
        assert wrong.holds(int(failing)) != right.holds(int(failing))
        assert [eval(str(right), {"x": x}) for x in INPUTS] == list(right.results())
        repairs = {check.results() for check in one_token_away(wrong) if agrees(check, wrong, said)}
        assert repairs == {right.results()}
        assert len(row.data["question"]) <= 40
        assert len(row.data["answer"]) <= 13


def test_every_kind_of_token_is_wrong_now_and_then() -> None:
    kinds = {
        differ_in(check_of(row.data["question"].partition(" fails")[0]), check_of(row.data["answer"]))
        for row in ROWS["train"]
    }
    assert kinds == {"join", 0, 1}


def test_gold_of_some_rows_earns_1_in_the_sandbox_and_the_bug_earns_0() -> None:
    for row in ROWS["validation"][:8]:
        assert ENVIRONMENT.score(row, ENVIRONMENT.gold(row)).reward == 1.0
        assert ENVIRONMENT.score(row, row.data["question"].partition(" fails")[0]).reward == 0.0


@pytest.mark.parametrize("program", ["x>3 and x<8", "3<x<8", "x in range(4, 8)", "x>=4 and x<=7"])
def test_any_repair_that_holds_everywhere_is_right(program: str) -> None:
    assert ENVIRONMENT.score(ROW, program).reward == 1.0


@pytest.mark.parametrize("program", ["x<3 and x<8", "x>3 or x<8", "x==5", "x>3 and", "1 if 3<x<8 else 0", "", "True"])
def test_what_mends_the_one_input_or_nothing_is_wrong(program: str) -> None:
    assert ENVIRONMENT.score(ROW, program).reward == 0.0


def test_splits_share_no_program() -> None:
    programs = {split: {row.data["answer"] for row in rows} for split, rows in ROWS.items()}
    assert not programs["train"] & (programs["validation"] | programs["test"])
    assert not programs["validation"] & programs["test"]


def test_rows_whose_answer_is_no_check_are_refused() -> None:
    assert ENVIRONMENT.read(ROW.data) == ROW.data
    with pytest.raises(DataError, match="no check of two clauses"):
        ENVIRONMENT.read({"question": "?", "answer": "__import__('os')"})
