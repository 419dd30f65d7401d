"""The stages of a recipe as a graph: who starts from whom, and in which order they run."""

from __future__ import annotations

import dataclasses

from cascade.config import MopdStage, Recipe, RewardModelStage, RlStage
from cascade.errors import ConfigError
from cascade.origins import Origins

BASE = "base"
"""The name of the model a recipe starts from, where a stage's `from` may say so."""

RESERVED = (BASE, "best")
"""What `from` and `teachers` say when they do not name a stage."""


def parents(recipe: Recipe) -> dict[str, str]:
    """stage -> the stage it starts from: the one written before it unless it says otherwise, `base` for the first.

    Behind a reward model, which is no policy, it is the reward model's own parent.
    """
    found: dict[str, str] = {}
    default = BASE
    for name, stage in recipe.stages.items():
        found[name] = stage.parent or default
        default = found[name] if isinstance(stage, RewardModelStage) else name
    return found


def stage_order(recipe: Recipe, origins: Origins) -> list[str]:
    """Parents, teachers and reward models first, else as written. Raises `ConfigError` naming the stages of a cycle."""
    parent = parents(recipe)
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise _cycle(recipe, path[path.index(name) :], origins)
        if name in done or name == BASE:
            return
        for needed in (parent[name], *named_teachers(recipe, name), *named_reward_models(recipe, name)):
            visit(needed, (*path, name))
        done.append(name)

    for name in recipe.stages:
        visit(name, ())
    return done


def _cycle(recipe: Recipe, stages: tuple[str, ...], origins: Origins) -> ConfigError:
    needs, names = [], list(recipe.stages)
    for name in stages:
        stage, before = recipe.stages[name], names[max(0, names.index(name) - 1)]
        if stage.parent is None and isinstance(recipe.stages[before], RewardModelStage):  # whose parent is its own
            needs.append(f"`stages.{before}.from` in {origins.of(['stages', before, 'from'])}")
        keys = ["from"] if stage.parent in stages else []
        if isinstance(stage, MopdStage):
            keys += [f"teachers.{domain}" for domain, teacher in stage.teachers.items() if teacher in stages]
        if isinstance(stage, RlStage) and stage.reward_model in stages:
            keys.append("reward_model")
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


def named_reward_models(recipe: Recipe, name: str) -> list[str]:
    """The reward model of a stage that is rewarded by one."""
    stage = recipe.stages[name]
    return [stage.reward_model] if isinstance(stage, RlStage) and stage.reward_model else []


def resolved_keys(recipe: Recipe) -> dict[str, object]:
    """The whole recipe as plain data, every default filled in, under the names that are typed."""
    plain = dataclasses.asdict(recipe)
    for name, parent in parents(recipe).items():
        stage = plain["stages"][name]
        del stage["parent"]
        plain["stages"][name] = {"kind": stage.pop("kind"), "from": parent, **stage}
    return plain
