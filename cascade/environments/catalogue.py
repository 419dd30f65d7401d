"""From the names in a recipe to environments. A new one is one file here, one line below and one YAML, or none of
these: a dotted path to a class of your own does the same."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from typing import Any

from cascade.config import EnvironmentConfig
from cascade.errors import ConfigError
from cascade.naming import nearest
from cascade.ports import Environment

BUILT_IN = {
    "addition": "cascade.environments.addition.Addition",
    "gsm8k": "cascade.environments.gsm8k.Gsm8k",
    "needle_digits": "cascade.environments.needle_digits.NeedleDigits",
    "option_lookup": "cascade.environments.option_lookup.OptionLookup",
    "ranked_items": "cascade.environments.ranked_items.RankedItems",
    "record_fields": "cascade.environments.record_fields.RecordFields",
    "tool_call": "cascade.environments.tool_call.ToolCall",
    "word_operations": "cascade.environments.word_operations.WordOperations",
}


def build_environments(configs: Mapping[str, EnvironmentConfig], seed: int) -> dict[str, Environment]:
    """Every environment of a recipe, by its name there. Raises `ConfigError` naming the key that is wrong."""
    return {name: OnceRead(build_environment(name, config, seed)) for name, config in configs.items()}


class OnceRead:
    """An environment whose rows are read or made once."""

    def __init__(self, environment: Environment) -> None:
        self.domain = environment.domain
        self.messages, self.gold, self.score = environment.messages, environment.gold, environment.score
        self.rows = functools.cache(environment.rows)


def build_environment(name: str, config: EnvironmentConfig, seed: int) -> Environment:
    """One environment. Its class is a dataclass; `params` are its fields besides `name` and `seed`."""
    at = f"environments.{name}"
    cls = _class_of(config.kind, at)
    accepted = {field.name for field in dataclasses.fields(cls) if field.init} - {"name", "seed"}
    for key in config.params:
        if key not in accepted:
            raise ConfigError(f"Unknown key `{at}.params.{key}`.", nearest(key, accepted, "parameter"))
    try:
        environment = cls(name=name, seed=seed, **config.params)
    except TypeError as error:
        raise ConfigError(f"`{at}.params` do not fit {config.kind}: {error}.", "Correct their types.") from None
    if environment.domain != config.domain:
        raise ConfigError(
            f"`{at}.domain` is {config.domain}, but {config.kind} is an environment of {environment.domain}.",
            "Correct the domain, or choose another kind.",
        )
    return environment


def _class_of(kind: str, at: str) -> Any:
    if kind not in BUILT_IN and "." not in kind:
        raise ConfigError(f"`{at}.kind` is `{kind}`.", nearest(kind, BUILT_IN, "environment"))
    module, _, cls = BUILT_IN.get(kind, kind).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls, None)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`{at}.kind` names the module {module}: {error}.", "Correct the path, or install it."
        ) from None
    if not dataclasses.is_dataclass(found):
        raise ConfigError(f"`{at}.kind` is {kind}, which is not a dataclass.", "See `cascade.ports.Environment`.")
    return found
