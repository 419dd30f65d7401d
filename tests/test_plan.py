"""The plan says what will be done, with its arithmetic, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade.commands import checked_recipe
from cascade.planning.plan import plan
from tests.conftest import REPOSITORY, cascade, cascade_here


def lines(*words: str) -> list[str]:
    recipe, order, *_ = checked_recipe(["recipe=smoke", *words])
    return [line.strip() for line in plan(recipe, order).splitlines()]


def test_the_plan_names_stages_in_order_with_parents_mixes_and_teachers() -> None:
    text = lines()
    headings = [line for line in text if line[:1].isdecimal()]
    assert headings == [
        "1. sft (sft) from base",
        "2. if_rl (rl) from sft",
        "3. math_teacher (rl) from sft",
        "4. mopd (mopd) from if_rl",
    ]
    assert "teachers: instruction_following: best, math: math_teacher" in text
    assert text.count("mix: math 50%, instruction_following 50%") == 2


def test_the_batch_arithmetic_counts_processes_refills_and_tokens() -> None:
    text = "\n".join(
        lines(
            "launch=torchrun",
            "launch.processes=2",
            "environments.instruction_following.max_completion_length=26",
            "stages.if_rl.max_refills=2",
            "stages.mopd.max_completion_length=10",
        )
    )
    assert "2 process(es) by torchrun" in text
    assert "batch: 16 conversations a step, 8 a process, 480 in all" in text
    assert "batch: 4 prompts x 4 rollouts = 16 a step, up to 48 with refills, 8 a process, at most 416" in text
    assert "batch: 8 prompts x 2 rollouts = 16 a step, 8 a process, at most 160 sampled tokens" in text


def test_gates_warm_up_and_routers_are_in_the_plan() -> None:
    text = lines("stages.if_rl.gates=[{max_drop:{math:0.05},min_score:{math:0.5},action:stop}]")
    assert "gate: math may fall by 0.05, math at least 0.5, else stop" in text
    assert "steps: 4, peak rate 0.0003, constant after 2 warm-up steps, router frozen" in text


def test_evaluations_are_counted_with_that_of_a_base_that_was_given(tmp_path: Path) -> None:
    scratch = "2 environments x (20 validation + 20 test rows) x 1 = up to 80 answers, greedy; "
    assert f"evaluation after every stage: {scratch}320 in all" in lines()
    given = ("~model.architecture", "~model.config", f"model.path={tmp_path}")
    assert f"evaluation after every stage: {scratch}400 in all" in lines(*given)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_that_ships_has_a_plan_or_says_what_it_lacks(file: Path) -> None:
    done = cascade_here("plan", f"recipe={file}")
    if done.returncode:
        assert "there is no such folder" in done.stderr  # a model to be made or downloaded first
    else:
        assert done.stdout.startswith(f"{file.stem}: ")


def test_plan_writes_nothing(tmp_path: Path) -> None:
    done = cascade("plan", "recipe=smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "files in runs/smoke/" in done.stdout
