"""The regression matrix as text."""

from __future__ import annotations

from typing import Any

from cascade.run_folder import RunFolder, read_status
from cascade.tracking.matrix import regression_matrix, score_matrix, short


def stage(name: str, parent: str | None, mean: float | None) -> dict[str, Any]:
    return {"name": name, "parent": parent, "scores": {"test": {"math": {"mean": mean, "stderr": 0.02, "n": 30}}}}


def test_the_matrix_marks_the_best_and_what_fell(run: RunFolder) -> None:
    assert regression_matrix(read_status(run.path)["stages"], "test").splitlines() == [
        "test             math  instruction_following",
        "sft             .30                    .40",
        "if_rl           .29                    .71 *",
        "math_rl         .61 *                  .57 v",
        "mopd_1          .60                    .70",
        "last              -                      -",
        "",
        "standard error  .03                    .03",
        "prompts         300                    300",
        "* best of its domain   v 5 points or more below its parent   standard error: the largest of the column",
    ]


def test_a_fall_of_exactly_five_points_is_marked_and_less_is_not() -> None:
    stages = [stage("a", None, 0.52), stage("b", "a", 0.47), stage("c", "a", 0.471), stage("d", "elsewhere", 0.1)]
    matrix = score_matrix(stages, "test")
    assert [cell.fell for cell in matrix.column("math")] == [False, True, False, False]


def test_a_score_that_is_no_number_is_left_out() -> None:
    assert score_matrix([stage("a", None, None), stage("b", "a", 0.5)], "test").row("a") == [None]


def test_without_scores_the_matrix_says_so() -> None:
    assert (
        regression_matrix([stage("a", None, 0.5)], "validation") == "No stage has a score on the validation split yet."
    )


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0.0, 0.473, 0.999, 1.0, -0.12, 10.02)] == [".00", ".47", "1.00", "1.00", "-.12", "10.02"]
