"""Programs for a description: judged by what they do in the sandbox, not by how they look."""

from __future__ import annotations

import pytest

from cascade.config import EnvironmentConfig
from cascade.environments import tiny_programs
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environments
from cascade.environments.expression_program import INPUTS, ExpressionProgram, carried_out, program_of, steps_of
from cascade.environments.procedural import split_of
from cascade.environments.tiny_programs import LONGEST
from cascade.errors import ConfigError, DataError
from cascade.sandbox.ports import Sandbox
from cascade.types import Row
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.local import LocalVerifiers

ENVIRONMENT = ExpressionProgram(seed=3, train_rows=300, validation_rows=100, test_rows=100)
ROW = Row("code/1", "code", "expression_program", {"question": "add 3, times 4", "answer": "(x+3)*4"})


def reward(program: str) -> float:
    return ENVIRONMENT.score(ROW, program).reward


def test_gold_is_short_and_does_what_the_words_say() -> None:
    for row in (row for split in ("train", "validation", "test") for row in ENVIRONMENT.rows(split)):
        steps = steps_of(row.data["question"])
        assert [eval(row.data["answer"], {"x": x}) for x in INPUTS] == [carried_out(steps, x) for x in INPUTS]
        assert len(row.data["answer"]) <= 8
        assert len(row.data["question"]) <= 20


def test_gold_of_some_rows_earns_1_in_the_sandbox() -> None:
    for row in ENVIRONMENT.rows("validation")[:12]:
        assert ENVIRONMENT.score(row, ENVIRONMENT.gold(row)).parts == {"ran": 1.0, "share": 1.0, "correct": 1.0}


def test_parentheses_stand_only_where_python_needs_them() -> None:
    assert program_of(steps_of("add 3, less 2, by 4, mod 5")) == "(x+3-2)*4%5"


@pytest.mark.parametrize("program", ["(x+3)*4", " 4*(3+x)\n", "x*4+12", "sum([x,x,x,x,12])", "12--4*x"])
def test_any_program_that_does_it_is_right(program: str) -> None:
    assert reward(program) == 1.0


@pytest.mark.parametrize(
    "program",
    [
        "x+3*4",
        "(x+3)*4.0",  # 20.0 is not 20
        "x*4+12 if x>0 else 0",  # not on every input
        "y*4+12",
        "x/0",
        "print((x+3)*4)",
        "__import__('os')._exit(0)",
        "(lambda: [print((y+3)*4) for y in range(-7, 24)] and 0)()",
    ],
)
def test_a_program_that_runs_wrongly_or_fails_is_wrong(program: str) -> None:
    assert reward(program) == 0.0


@pytest.mark.parametrize("program", ["", "x+", "(x+3)*4 4", "x=3", "\0", "\ud800", "(" * 100_000, "x" + "+0" * LONGEST])
def test_a_text_that_is_no_expression_is_wrong_and_ran_nothing(program: str) -> None:
    assert ENVIRONMENT.score(ROW, program).parts == {"ran": 0.0, "share": 0.0, "correct": 0.0}


@pytest.mark.parametrize("program", ["9**9**9**9", "[0]*9**9", "'a'*9**9", "open('/tmp/a','w').write('a'*9**8)"])
def test_a_program_that_takes_too_much_is_wrong_and_ends(program: str) -> None:
    assert reward(program) == 0.0


def test_a_share_of_the_inputs_is_told_but_not_rewarded() -> None:
    score = ENVIRONMENT.score(ROW, "x*4+12 if x>0 else 0")
    assert 0.5 < score.parts["share"] < 1.0
    assert score.reward == 0.0


def test_what_a_program_prints_does_not_take_the_place_of_what_it_gives() -> None:
    lines = "\\n".join(str((x + 3) * 4) for x in INPUTS)
    assert reward(f"print('{lines}')") == 0.0


def test_a_program_is_run_once_whatever_the_row_and_a_text_that_is_none_never(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = tiny_programs.sandbox

    def counted(name: str) -> Sandbox:
        opened.append(name)
        return real(name)

    monkeypatch.setattr(tiny_programs, "sandbox", counted)
    other = Row("code/2", "code", "expression_program", {"question": "times 4, add 7", "answer": "x*4+7"})
    assert [ENVIRONMENT.score(row, " x*4+7 ").reward for row in (ROW, other, ROW, other)] == [0.0, 1.0, 0.0, 1.0]
    assert [ENVIRONMENT.score(row, "x*4+").reward for row in (ROW, other)] == [0.0, 0.0]
    assert opened == ["bwrap"]


def test_the_same_verdicts_come_from_worker_processes() -> None:
    config = EnvironmentConfig("expression_program", "code")
    environments = build_environments({"code": config}, 0)
    verifiers = LocalVerifiers(environments, {"code": EnvironmentSpec("code", config, 0)})
    row = Row("code/1", "code", "code", ROW.data)
    programs = ("(x+3)*4", "x+3*4", "4*x+12", "x+", "9**9**9**9")
    (verdicts,) = verifiers.verify([Job("code", row, tuple(attempt_at([program]) for program in programs))])
    verifiers.close()
    assert [verdict.score.reward for verdict in verdicts if verdict.score] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert {verdict.status for verdict in verdicts} == {"ok"}


def test_splits_share_no_program() -> None:
    programs = {
        split: {row.data["answer"] for row in ENVIRONMENT.rows(split)} for split in ("train", "validation", "test")
    }
    assert not programs["train"] & (programs["validation"] | programs["test"])
    assert not programs["validation"] & programs["test"]
    assert all(split_of(program) == split for split, found in programs.items() for program in found)


def test_rows_that_describe_nothing_and_wrong_parameters_are_refused() -> None:
    assert ENVIRONMENT.read(ROW.data) == ROW.data
    with pytest.raises(DataError, match="no description of a program"):
        ENVIRONMENT.read({"question": "double, times 4", "answer": "x"})
    with pytest.raises(ConfigError, match="max_steps is 1"):
        ExpressionProgram(min_steps=2, max_steps=1)
