"""Word problems as programs: gold programs and their repairs run, and come to the number."""

from __future__ import annotations

import gzip
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.gsm8k_program import Gsm8kProgram, program_of, shown, steps_of, value_of
from cascade.environments.gsm8k_repair import Gsm8kRepair, broken
from cascade.errors import DataError
from cascade.types import Row
from tests.conftest import REPOSITORY

DATA = Path(os.environ.get("CASCADE_DATA", REPOSITORY.parent / "shared" / "data")) / "gsm8k"
RECORD = {
    "question": "Natalia sold 48 clips in April, and half as many in May. How many did she sell?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
}
PROGRAM, REPAIR = Gsm8kProgram(), Gsm8kRepair()


def row(environment: Gsm8kProgram, record: dict[str, Any] = RECORD) -> Row:
    return Row("code/1", environment.domain, environment.name, environment.read(record))


def block(program: str) -> str:
    return f"```python\n{program}\n```"


def test_the_gold_program_is_the_calculation_of_the_reference_and_earns_1() -> None:
    asked = row(PROGRAM)
    assert PROGRAM.gold(asked) == block("a = 48/2\nb = 48+a\nprint(b)")
    assert PROGRAM.score(asked, PROGRAM.gold(asked)).reward == 1.0


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (block("print(72)"), 1.0),
        (block("print('72.0')"), 1.0),
        (block("print(7.2e1)"), 1.0),
        (block("print(73)"), 0.0),
        (block("print(72, 73)"), 0.0),
        (block("x = 72"), 0.0),
        (block("print(1/0)"), 0.0),
        ("#### 72", 0.0),
        ("The answer is 72.", 0.0),
    ],
)
def test_a_program_is_judged_by_the_number_it_prints(answer: str, reward: float) -> None:
    assert PROGRAM.score(row(PROGRAM), answer).reward == reward


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ("<<48/2=24>>24 <<48+24=72>>72 #### 72", ["48/2", "48+a"]),
        ("<<10/3=3.33>>3.33 #### 3.33", ["3.33"]),  # rounded on the way
        ("<<5*2=10>>10 #### 7", ["7"]),
        ("no calculation #### -7", ["-7"]),
        ("<<9**9**9=1>>1 #### 1", ["1"]),
        ("<<6/(2-2)=0>>0 #### 0", ["0"]),
        ("<<2*3=6>>6 <<6+6=12>>12 #### 12", ["2*3", "a+a"]),
        ("<<.5*4=2>>2 <<2*25=50>>50 #### 50", [".5*4", "a*25"]),
    ],
)
def test_steps_come_to_the_number_or_are_the_number(answer: str, steps: list[str]) -> None:
    number = Fraction(answer.rpartition(" ")[2])
    assert steps_of(answer, number) == steps
    assert value_of(steps) == number
    assert shown(Fraction(7, 2)) == "3.5"


def test_a_repair_shows_a_program_that_prints_another_number_and_takes_any_that_prints_the_right_one() -> None:
    asked = row(REPAIR)
    wrong = block(program_of(asked.data["broken"]))
    assert wrong in REPAIR.messages(asked)[0].get("content", "")
    assert REPAIR.score(asked, wrong).reward == 0.0
    assert REPAIR.score(asked, REPAIR.gold(asked)).reward == 1.0
    assert asked.data == row(REPAIR).data  # the same bug for every seed


def test_one_token_is_exchanged() -> None:
    for number in range(50):
        steps = ["48/2", "48+a", "b*3-1"]
        wrong = broken(steps, f"question {number}")
        assert value_of(wrong) not in (None, value_of(steps))
        assert sum(one != other for one, other in zip(steps, wrong, strict=True)) == 1
    assert value_of(broken(["7"], "x")) not in (None, Fraction(7))


def test_a_record_without_a_number_is_refused() -> None:
    with pytest.raises(DataError, match="ends in `#### N`"):
        PROGRAM.read({"question": "How many?", "answer": "many"})


@pytest.mark.skipif(not DATA.is_dir(), reason="GSM8K is not at $CASCADE_DATA")
def test_gold_programs_of_gsm8k_come_to_its_numbers_and_its_bugs_to_others() -> None:
    with gzip.open(DATA / "test.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file][:400]
    rows = [row(REPAIR, record) for record in records]
    assert all(value_of(one.data["broken"]) not in (None, value_of(one.data["steps"])) for one in rows)
    assert sum(len(one.data["steps"]) > 1 for one in rows) > 350
    assert [PROGRAM.score(one, PROGRAM.gold(one)).reward for one in rows[:8]] == [1.0] * 8
