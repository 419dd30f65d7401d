"""The stages of a recipe as a graph: who starts from whom, and in which order they run."""

from __future__ import annotations

import dataclasses

from cascade.config import MopdStage, Recipe
from cascade.errors import ConfigError
from cascade.origins import Origins

BASE = "base"
"""The name of the model a recipe starts from, where a stage's `from` may say so."""

RESERVED = (BASE, "best")
"""What `from` and `teachers` say when they do not name a stage."""


def parents(recipe: Recipe) -> dict[str, str]:
    """stage -> the stage it starts from: the one written before it unless it says otherwise, `base` for the first."""
    names = list(recipe.stages)
    return {
        name: recipe.stages[name].parent or (names[place - 1] if place else BASE) for place, name in enumerate(names)
    }


def stage_order(recipe: Recipe, origins: Origins) -> list[str]:
    """Parents and named teachers first, else as written. Raises `ConfigError` naming the stages of a cycle."""
    parent = parents(recipe)
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise _cycle(recipe, path[path.index(name) :], origins)
        if name in done or name == BASE:
            return
        for needed in (parent[name], *named_teachers(recipe, name)):
            visit(needed, (*path, name))
        done.append(name)

    for name in recipe.stages:
        visit(name, ())
    return done


def _cycle(recipe: Recipe, stages: tuple[str, ...], origins: Origins) -> ConfigError:
    needs = []
    for name in stages:
        stage = recipe.stages[name]
        keys = ["from"] if stage.parent in stages else []
        if isinstance(stage, MopdStage):
            keys += [f"teachers.{domain}" for domain, teacher in stage.teachers.items() if teacher in stages]
        needs += [f"`stages.{name}.{key}` in {origins.of(f'stages.{name}.{key}'.split('.'))}" for key in keys]
    return ConfigError(
        f"The stages need each other in a circle: {' <- '.join((*stages, stages[0]))}.",
        f"Change one of {', '.join(needs)}.",
    )


def named_teachers(recipe: Recipe, name: str) -> list[str]:
    """The stages that a distillation stage names as teachers."""
    stage = recipe.stages[name]
    chosen = stage.teachers.values() if isinstance(stage, MopdStage) else ()
    return [teacher for teacher in chosen if teacher != "best"]


def resolved_keys(recipe: Recipe) -> dict[str, object]:
    """The whole recipe as plain data, every default filled in, under the names that are typed."""
    plain = dataclasses.asdict(recipe)
    for name, parent in parents(recipe).items():
        stage = plain["stages"][name]
        del stage["parent"]
        plain["stages"][name] = {"kind": stage.pop("kind"), "from": parent, **stage}
    return plain
