"""What must hold between the keys that shard the policy. Checked on any laptop before anything is computed."""

from __future__ import annotations

from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.origins import Origins


def check_sharding(recipe: Recipe, origins: Origins) -> None:
    """Raises `ConfigError` for the first thing that cannot be."""
    _check_offload(recipe, origins)


def _check_offload(recipe: Recipe, origins: Origins) -> None:
    policy = recipe.policy
    if policy.offload_parameters != "none" and policy.zero_stage != 3:
        raise ConfigError(
            f"`policy.offload_parameters` in {origins.of(['policy', 'offload_parameters'])} needs ZeRO-3, but "
            f"`policy.zero_stage` is {policy.zero_stage}.",
            "Set `policy.zero_stage=3`, or remove it.",
        )
    if policy.offload_optimizer != "none" and policy.zero_stage == 0:
        raise ConfigError(
            f"`policy.offload_optimizer` in {origins.of(['policy', 'offload_optimizer'])} needs ZeRO 1 to 3, but "
            "`policy.zero_stage` is 0.",
            "Set `policy.zero_stage=1`, or remove it.",
        )
