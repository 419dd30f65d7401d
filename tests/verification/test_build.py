"""The `verifiers` of a recipe: what can be asked for, and what is refused."""

from __future__ import annotations

import sys

import pytest

from cascade.compose import load_recipe
from cascade.config import VerifiersConfig
from cascade.errors import ConfigError
from cascade.recipe_checks import check_recipe
from cascade.verification.build import build_verifiers
from cascade.verification.local import LocalVerifiers


def test_recipes_have_local_verifiers_unless_they_say_otherwise() -> None:
    assert load_recipe("smoke")[0].verifiers == VerifiersConfig()
    assert load_recipe("smoke", ["verifiers=ray", "verifiers.address=auto"])[0].verifiers.engine == "ray"


def test_an_address_without_ray_is_refused() -> None:
    recipe, origins = load_recipe("smoke", ["verifiers.address=auto"])
    with pytest.raises(ConfigError, match=r"`verifiers.address` in the override .* does nothing"):
        check_recipe(recipe, origins)


@pytest.mark.parametrize("wrong", ["workers=0", "memory_gib=0", "retries=-1", "engine=slurm", "cache_entries=1.5"])
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"`verifiers.{wrong.partition('=')[0]}` is"):
        load_recipe("smoke", [f"verifiers.{wrong}"])


def test_local_verifiers_take_over_every_key_and_import_no_ray() -> None:
    config = VerifiersConfig(workers=3, cache_entries=7, retries=1, memory_gib=0.5)
    before = set(sys.modules)
    verifiers = build_verifiers(config, {}, {})
    try:
        assert isinstance(verifiers, LocalVerifiers)
        assert verifiers.metrics()["verifiers/verdicts"] == 0
        assert not {module for module in set(sys.modules) - before if module.partition(".")[0] == "ray"}
    finally:
        verifiers.close()
