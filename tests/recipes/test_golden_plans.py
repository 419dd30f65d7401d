"""The plans of the recipes of the paper's size are what they were; a change of a recipe or of the planner shows here.

To accept one: `python tests/recipes/test_golden_plans.py`, and read the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.conftest import cascade_here  # noqa: E402

RECIPES = ("nemotron-cascade-2", "qwen3-30b-a3b")


def golden(recipe: str) -> Path:
    return ROOT / "tests" / "golden" / f"plan_{recipe}.txt"


def planned(recipe: str) -> str:
    done = cascade_here("plan", f"recipe={recipe}", "cluster=h100", "cluster.nodes=32")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plan_is_the_golden_one_and_fits(recipe: str) -> None:
    assert planned(recipe) == golden(recipe).read_text()
    assert "\nfits\n" in golden(recipe).read_text()


if __name__ == "__main__":
    for name in RECIPES:
        golden(name).write_text(planned(name))
