"""A search finds layouts that fit, are valid, can be pasted and are no slower than the recipe's own."""

from __future__ import annotations

import itertools

import pytest

from cascade.planning.changes import words
from cascade.planning.search import Found, search
from cascade.planning.splits import decide
from tests.conftest import cascade_here
from tests.planning.small_cases import case, decided

BIG = ("recipe=nemotron-cascade-2", "cluster=h100", "cluster.nodes=32")
SMALL = ("recipe=smollm2", "model=qwen3_8b", "cluster=h100")


@pytest.fixture(scope="module", params=[pytest.param(BIG, marks=pytest.mark.slow), SMALL], ids=["nemotron", "qwen3_8b"])
def searched(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], Found]:
    found = search(case(*request.param))
    assert found is not None
    return request.param, found


def test_what_is_found_fits_is_valid_and_planned_the_same_when_it_is_typed(
    searched: tuple[tuple[str, ...], Found],
) -> None:
    asked, found = searched
    typed = decided(*asked, *words(found.changes))
    assert typed.derived == {}  # nothing is left to decide
    assert typed.plan.fits
    assert typed.plan.hours == pytest.approx(found.plan.hours)
    assert found.seconds < 60


def test_no_neighbour_that_fits_is_faster(searched: tuple[tuple[str, ...], Found]) -> None:
    asked, found = searched
    base = case(*asked).changed(found.changes)
    policy = base.recipe.policy
    neighbours = [
        {"policy.zero_stage": stage, "policy.rows_per_micro_batch": rows, "policy.activation_checkpointing": again}
        for stage, rows, again in itertools.product((1, 2, 3), (1, 2, 4), (True, False))
    ]
    for neighbour in neighbours:
        other = base.changed(neighbour)
        if other.refused() is None and max(other.overflow().values()) <= 1:
            assert other.plan().hours >= found.plan.hours * 0.999, (neighbour, policy)


def test_the_recipes_own_layout_is_no_faster() -> None:
    asked = case("recipe=smoke", "cluster=h100")
    own = decide(asked).case.plan()
    found = search(asked)
    assert own.fits
    assert found is not None
    assert found.plan.hours <= own.hours * 1.001


def test_nothing_is_found_where_nothing_fits() -> None:
    assert search(case("recipe=smoke", "model=llama_3_1_70b", "cluster=a10g")) is None


def test_the_command_prints_overrides_and_the_gain() -> None:
    done = cascade_here("plan", "recipe=smoke", "model=qwen3_1_7b", "cluster=h100", "--search")
    assert done.returncode == 0, done.stderr
    said = done.stdout[done.stdout.index("search:") :]
    assert "times as fast" in said
    assert "policy." in said or "launch." in said
