"""reasoning-gym: rows made and brought, scores that can be trusted, and answers that are code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.reasoning_gym import ReasoningGym, extracted
from cascade.environments.reasoning_gym_answers import WITHOUT_GOLD
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.ports import Bounded, ReadsRecords
from cascade.types import Row

pytest.importorskip("reasoning_gym", reason='pip install "cascade-rl[reasoning-gym]"')

SLOW = {"futoshiki", "knight_swap", "arc_agi", "puzzle24", "sudoku", "zebra_puzzles", "sokoban", "acre"}
KNIGHTS = {  # as NeMo-Gym has it
    "responses_create_params": {"input": [{"role": "user", "content": "You meet 2 inhabitants: Zoey, and Riley. ..."}]},
    "question": "You meet 2 inhabitants: Zoey, and Riley. ...",
    "answer": "Zoey is a fool, and Riley is a sage.",
    "metadata": {"source_dataset": "knights_knaves", "source_index": 0, "names": ["Zoey", "Riley"],
                 "knight_knave_terms": {"knight": "sage", "knave": "fool", "a_knight": "a sage", "a_knave": "a fool"}},
}  # fmt: skip


def made(task: str, rows: int = 2, **params: Any) -> tuple[ReasoningGym, list[Row]]:
    environment = ReasoningGym(tasks={task: params}, train_rows=rows)
    return environment, list(environment.rows("train"))


def brought(record: dict[str, Any], **params: Any) -> tuple[ReasoningGym, Row]:
    environment = ReasoningGym(**params)
    return environment, Row("reasoning_gym/x", "math", "reasoning_gym", environment.read(record))


def entry(task: str, answer: str, **metadata: Any) -> dict[str, Any]:
    return {"question": "?", "answer": answer, "metadata": {"source_dataset": task, **metadata}}


def names() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite", *WITHOUT_GOLD, *SLOW})


def test_the_gold_answer_of_every_task_scores_one_and_nonsense_scores_nothing() -> None:
    assert len(names()) > 90
    for task in names():
        environment, (row,) = made(task, rows=1)
        json.dumps(row.data)
        assert environment.score(row, environment.gold(row)).reward == 1.0, task
        for junk in (
            "",
            "zzz",
            "[]",
            "{}",
            "nan",
            "nan+nanj",
            "(" * 1000,
            "9" * 5000,
            "\x00",
            "\ud800",
            "x" * 5_000_000,
        ):
            assert environment.score(row, junk).reward == 0.0, (task, junk[:9])


def test_splits_share_no_row_and_evaluation_is_the_same_for_every_seed() -> None:
    tasks = {"chain_sum": {"max_terms": 3}, "spell_backward": {"weight": 3}}
    sizes: dict[str, Any] = {"train_rows": 60, "validation_rows": 20, "test_rows": 20}
    first, second = (ReasoningGym(tasks=tasks, seed=seed, **sizes) for seed in (1, 2))
    rows = {split: [row.id for row in first.rows(split)] for split in ("train", "validation", "test")}
    assert [len(ids) for ids in rows.values()] == [60, 20, 20]
    assert len({key for ids in rows.values() for key in ids}) == 100
    assert rows["train"] == [row.id for row in first.rows("train")] != [row.id for row in second.rows("train")]
    assert rows["test"] == [row.id for row in second.rows("test")]
    drawn = [row.data["metadata"]["source_dataset"] for row in first.rows("train")]
    assert drawn.count("spell_backward") > drawn.count("chain_sum") > 0


def test_a_task_that_has_too_few_questions_is_a_data_error() -> None:
    narrow = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 2}
    with pytest.raises(DataError, match="train_rows"):
        made("gcd", rows=100, **narrow)


def test_rows_of_nemo_gym_are_read_and_scored() -> None:
    environment, row = brought(KNIGHTS)
    assert environment.messages(row)[0].get("content") == KNIGHTS["question"]
    assert environment.score(row, environment.gold(row)).reward == 1.0
    assert environment.score(row, "<answer>Zoey is a sage, and Riley is a fool.</answer>").reward == 0.0
    assert brought({**KNIGHTS, "metadata": json.dumps(KNIGHTS["metadata"])})[1].data == row.data
    assert isinstance(environment, ReadsRecords)
    assert isinstance(environment, Bounded)


def test_rows_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(KNIGHTS) + "\n" + json.dumps({"question": "?"}))
    with pytest.raises(DataError, match=r"2: No `question`, or no `metadata`"):
        ReasoningGym(train=str(tmp_path / "rows.jsonl"), test=str(tmp_path / "rows.jsonl")).rows("test")


@pytest.mark.parametrize(
    "record",
    [{"question": "?"}, entry("nothing_like_it", "1"), entry("composite", "1"), entry("rush_hour", "F+1"),
     {"question": "?", "answer": None, "metadata": {"source_dataset": "gcd"}},
     {"question": "?", "answer": "1", "metadata": "{"},
     entry("number_sorting", "__import__('os').getcwd()", direction="ascending"),
     entry("bitwise_arithmetic", "0x1", problem="__import__('os').getpid()"),
     entry("bitwise_arithmetic", "0x1", problem="9**9**9"),
     entry("polynomial_multiplication", "exit()"), entry("simple_integration", "x", integrand="open('x')")],
)  # fmt: skip
def test_rows_that_cannot_be_scored_or_are_code_are_malformed(record: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        ReasoningGym().read(record)


def test_answers_stand_in_the_last_tag_else_in_the_last_box_else_alone() -> None:
    assert extracted("<answer>1</answer> no: <answer> 2\n</answer>") == (True, "2")
    assert extracted(r"\boxed{1}, \boxed{\frac{1}{2}}") == (False, r"\frac{1}{2}")
    assert extracted("  7 ") == (False, "7")
    assert extracted("<answer>7") == (False, "<answer>7")
    assert extracted("<answer>" * 200_000)[0] is False


@pytest.mark.parametrize(
    ("record", "right", "code"),
    [
        (entry("string_insertion", "AB"), "AB", "open({!r}, 'w').write('x')"),
        (entry("spiral_matrix", "1 2"), "1 2", "[open({!r}, 'w').write('x')]"),
        (entry("binary_matrix", "0 1"), "0 1", "[[open({!r}, 'w').write('x')]]"),
        (entry("n_queens", "Q", valid_answers=["Q", "R"]), "R", "[[open({!r}, 'w').write('x')]]"),
        (entry("countdown", "1+2", numbers=[1, 2], target=3), "2 + 1", "open({!r}, 'w').write('x')"),
        (entry("puzzle24", "6*4*1*1", numbers=[6, 4, 1, 1]), "4*6*1*1", "open({!r}, 'w').write('x')"),
        (entry("polynomial_multiplication", "x**2 + x"), "x + x**2", "open({!r}, 'w').write('x')"),
        (entry("simple_integration", "x**2 + C", variable="x", integrand="2*x"), "x**2", "open({!r}, 'w').write('x')"),
        (entry("intermediate_integration", "x**2 + C", variable="x", integrand="2*x"), "x**2+1", "exit({!r})"),
    ],
)  # fmt: skip
def test_an_answer_that_is_code_is_never_run(tmp_path: Path, record: dict[str, Any], right: str, code: str) -> None:
    environment, row = brought(record)
    assert environment.score(row, f"<answer>{right}</answer>").reward == 1.0
    for text in (code.format(str(tmp_path / "ran")), "().__class__.__mro__", "9**9**9**9", "(lambda: 1)()", "[" * 9000):
        assert environment.score(row, f"<answer>{text}</answer>").reward == 0.0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (entry("puzzle24", "6*4*1*1", numbers=[6, 4, 1, 1]), "3*8*1*1"),  # 24, of other numbers
        (entry("game_of_life_halting", "False"), "True"),
        (entry("simple_integration", "x**2 + C", variable="x", integrand="2*x"), "Integral(2*x, x)"),
        (entry("polynomial_multiplication", "x**2 + x"), "x*(x+1)"),  # the question, not worked out
        (entry("complex_arithmetic", "1 + 2i", real=1, imag=2), "nan"),
        (entry("spell_backward", "abc"), "abc acb bac bca cab cba"),
    ],
)  # fmt: skip
def test_pleasing_the_scorer_without_an_answer_earns_nothing(record: dict[str, Any], answer: str) -> None:
    environment, row = brought(record)
    assert environment.score(row, answer).reward == 0.0
    assert environment.score(row, f"<answer>{answer}</answer>").reward == 0.0


def test_graded_scores_are_kept_except_what_is_given_for_form_alone() -> None:
    record = entry("spell_backward", "abcdefgh")
    for answer, binary, graded in (("abcdefgh", 1.0, 1.0), ("hgfedcba", 0.0, 0.0)):
        assert brought(record)[0].score(brought(record)[1], answer).reward == binary
        environment, row = brought(record, binary=False)
        assert environment.score(row, answer).reward == graded
    fraction = entry("fraction_simplification", "1/2", simplified_numerator=1, simplified_denominator=2, style="plain")
    environment, row = brought(fraction, binary=False)
    assert environment.score(row, "zzz").reward == 0.0
    assert environment.score(row, "zzz").parts["score"] == 0.01
    half = brought(entry("string_insertion", "AB"), threshold=0.1)
    assert half[0].score(half[1], "['A', 'B']").reward == 1.0


def test_a_row_that_its_task_cannot_score_is_a_failure_of_the_row() -> None:
    environment, row = brought(entry("n_queens", "Q _"))  # its `valid_answers` are missing
    with pytest.raises(VerifierFailure) as failure:
        environment.score(row, "[[1]]")
    assert failure.value.kind is FailureKind.DATA


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"tasks": {"chain_sums": {}}}, "chain_sum"), ({"tasks": {"chain_sum": {"terms": 3}}}, "do not fit"),
        ({"tasks": {"chain_sum": {"min_terms": 9, "max_terms": 2}}}, "do not fit"),
        ({"tasks": {"chain_sum": {"weight": 0}}}, "weight"), ({"tasks": {"rush_hour": {}}}, "no gold answers"),
        ({"tasks": {"gcd": {}}, "train": "x.jsonl"}, "one of them"), ({"threshold": 0.0}, "threshold"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_config_errors(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ReasoningGym(**params)


def test_tasks_without_gold_can_be_asked_for() -> None:
    environment = ReasoningGym(tasks={"graph_color": {}}, train_rows=1, allow_without_gold=True)
    (row,) = environment.rows("train")
    assert environment.score(row, "zzz").reward == 0.0
    with pytest.raises(DataError, match="no gold answer"):
        environment.gold(row)


def test_a_missing_package_is_named_with_a_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cascade-rl\[reasoning-gym\]"):
        ReasoningGym()
