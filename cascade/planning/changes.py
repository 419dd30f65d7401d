"""A recipe with some keys changed, and these changes as words that can be typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.origins import Origins
from cascade.recipe_checks import check_recipe

Changes = Mapping[str, Any]
"""Dotted key -> value, e.g. `{"policy.zero_stage": 1}`."""


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with these keys set."""
    for key, value in changes.items():
        recipe = _set(recipe, key.split("."), value)
    return recipe


def _set(holder: Any, path: list[str], value: Any) -> Any:
    if isinstance(holder, dict):
        inner = value if len(path) == 1 else _set(holder[path[0]], path[1:], value)
        return {**holder, path[0]: inner}
    inner = value if len(path) == 1 else _set(getattr(holder, path[0]), path[1:], value)
    return dataclasses.replace(holder, **{path[0]: inner})


def words(changes: Changes) -> list[str]:
    """As they are typed: `["policy.zero_stage=1", "policy.packing=true"]`."""
    return [f"{key}={_typed(value)}" for key, value in changes.items()]


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


ALONE: Changes = {
    "launch.kind": "inline",
    "launch.nodes": 1,
    "launch.processes": 1,
    "launch.rendezvous": None,
    "launch.max_restarts": 0,
    "launch.rollout_nodes": 0,
    "launch.teacher_nodes": 0,
    "launch.verifier_nodes": 0,
    "policy.expert_parallel": 1,
    "policy.sequence_parallel": 1,
}
"""One process that shares nothing."""


def alone(recipe: Recipe) -> Recipe:
    """The recipe in one process: what is wrong with that is wrong on any machines."""
    return changed(recipe, ALONE)


def why_not(recipe: Recipe) -> str | None:
    """What the recipe's own checks say against it; None where they pass."""
    try:
        check_recipe(recipe, Origins([], []))
    except ConfigError as error:
        return str(error)
    return None
