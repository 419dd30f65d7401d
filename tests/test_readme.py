"""What the README shows works as it stands there."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from cascade.compose import load_recipe
from cascade.environments.procedural import ProceduralEnvironment, Task
from cascade.recipe_checks import check_recipe
from cascade.types import Row, Score

README = Path(__file__).resolve().parent.parent / "README.md"


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)[0]


def test_the_environment_of_the_readme_scores_its_gold_answers() -> None:
    names = {
        "ClassVar": ClassVar,
        "ProceduralEnvironment": ProceduralEnvironment,
        "Row": Row,
        "Score": Score,
        "Task": Task,
        "dataclass": dataclass,
        "random": random,
    }
    exec(block("python"), names)
    environment = names["Reversal"](name="reversal", train_rows=20, validation_rows=5, test_rows=5)
    rows = environment.rows("train")
    assert all(environment.score(row, environment.gold(row)).reward == 1.0 for row in rows)
    assert environment.score(rows[0], environment.gold(rows[0]) + "!").reward == 0.0


def test_the_recipe_of_the_readme_composes_and_passes_its_checks(tmp_path: Path) -> None:
    text = block("yaml")
    assert yaml.safe_load(text)["stages"]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    recipe, origins = load_recipe(str(file))
    order = check_recipe(recipe, origins)
    assert order[-1] == "code_like_rl"
    assert recipe.stages["code_like_rl"].parent == "mopd_2"
