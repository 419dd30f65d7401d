"""Reads a recipe: YAML files and command-line overrides, composed by Hydra, checked against the closed schema."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.locations import conf_dir, recipes_dir
from cascade.naming import nearest


@dataclasses.dataclass(frozen=True)
class Origins:
    """Where keys were written, so that an error can name the file or the override."""

    overrides: Sequence[str]
    files: Sequence[tuple[Path, str]]  # (file, package it is mounted at), later wins

    def of(self, path: Sequence[str]) -> str:
        """`recipes/quickstart.yaml:12`, or the override, that holds the key or its nearest parent that is written."""
        for length in range(len(path), 0, -1):
            dotted = ".".join(path[:length])
            for override in reversed(self.overrides):
                if override.lstrip("+~").split("=")[0] == dotted:
                    return f"the override `{override}`"
            for file, package in reversed(self.files):
                line = _line_of(file, package, path[:length])
                if line:
                    return f"{file}:{line}"
        return str(self.files[-1][0]) if self.files else "the command line"


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Origins]:
    """The recipe called `recipe` (or the YAML file at that path) with overrides applied, checked key by key.

    Raises `ConfigError` naming the key, the file and the nearest valid name.
    """
    mapping, origins = compose_mapping(recipe, overrides)
    try:
        return TypeAdapter(Recipe).validate_python(mapping), origins
    except ValidationError as error:
        raise _explain(error, mapping, origins) from None


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.stem for file in recipes_dir().glob("*.yaml"))


def compose_mapping(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Origins]:
    """Hydra's composition as plain dicts, and where each key came from. Raises `ConfigError`."""
    file = _recipe_file(recipe)
    search_path = f"hydra.searchpath=[file://{recipes_dir()},file://{conf_dir()}]"
    ours = [_forced(override) for override in overrides]
    everything = [search_path, f"++name={file.stem}", *ours]
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(file.parent.resolve()), version_base="1.3"):
            config = compose(file.stem, overrides=everything)
            origins = Origins(overrides, _files(file, everything))
            mapping = typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise _composition_error(file, error) from None
    return mapping, origins


def _recipe_file(recipe: str) -> Path:
    if "/" in recipe or recipe.endswith((".yaml", ".yml")):
        if not Path(recipe).is_file():
            raise ConfigError(f"There is no recipe file at {recipe}.", "Check the path.")
        return Path(recipe)
    file = recipes_dir() / f"{recipe}.yaml"
    if not file.is_file():
        raise ConfigError(f"There is no recipe called `{recipe}`.", nearest(recipe, recipe_names(), "recipe"))
    return file


def _groups() -> set[str]:
    return {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}


def _forced(override: str) -> str:
    """Turns `key=value` into Hydra's add-or-replace form, so that our schema and not Hydra judges the key."""
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override():
        raise ConfigError(f"`{override}` gives several values.", "Give one, or quote a list: `'key=[a,b]'`.")
    if parsed.is_delete() or parsed.key_or_group.split("@")[0] in _groups():
        return override
    return "++" + override.lstrip("+")


def _files(primary: Path, overrides: list[str]) -> list[tuple[Path, str]]:
    """The YAML files of the defaults list, in the order in which they were merged."""
    defaults = GlobalHydra.instance().config_loader().compute_defaults_list(primary.stem, overrides, RunMode.RUN)
    return [found for default in defaults.defaults if (found := _locate(default, primary.parent))]


def _locate(default: ResultDefault, primary_dir: Path) -> tuple[Path, str] | None:
    for folder in (primary_dir, recipes_dir(), conf_dir()):
        file = folder / f"{default.config_path}.yaml"
        if default.config_path and file.is_file():
            return file, default.package or ""
    return None


def _line_of(file: Path, package: str, path: Sequence[str]) -> int | None:
    """The line of `file`, mounted at `package`, on which the key `path` stands; None when it does not."""
    prefix = [part for part in package.split(".") if part and part != "_global_"]
    if list(path[: len(prefix)]) != prefix or len(path) == len(prefix):
        return None
    node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    line = None
    for part in path[len(prefix) :]:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = [(k, v) for k, v in node.value if k.value == part]
        if not found:
            return None
        line, node = found[-1][0].start_mark.line + 1, found[-1][1]
    return line


def _composition_error(file: Path, error: Exception) -> ConfigError:
    text = str(error)
    missing = re.search(r"Could not find '([\w-]+)/([\w./-]+)'", text)
    if missing and (conf_dir() / missing[1]).is_dir():
        options = [option.stem for option in (conf_dir() / missing[1]).glob("*.yaml")]
        return ConfigError(f"There is no `{missing[1]}={missing[2]}`.", nearest(missing[2], options, missing[1]))
    return ConfigError(f"The recipe {file} does not compose: {text.splitlines()[0]}", "Correct the key or the value.")


def _explain(error: ValidationError, mapping: Mapping[str, Any], origins: Origins) -> ConfigError:
    """One clear error for the first thing that is wrong, unknown keys first: they are the cause of missing ones."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    problem = problems[0]
    path = _yaml_path(problem["loc"], mapping)
    dotted, where = ".".join(path), origins.of(path)
    if problem["type"] == "unexpected_keyword_argument":
        names = _keys_of(Recipe, path[:-1], mapping)
        return ConfigError(f"Unknown key `{dotted}` in {where}.", nearest(path[-1], names, "key"))
    if problem["type"] == "missing":
        return ConfigError(f"The key `{dotted}` is missing in {where}.", "Add it: it has no default.")
    if problem["type"] == "union_tag_invalid":
        kind = str(mapping["stages"][path[1]].get("kind"))
        return ConfigError(
            f"`{dotted}.kind` is `{kind}` in {where}.", nearest(kind, ["sft", "rl", "mopd"], "stage kind")
        )
    if problem["type"] == "union_tag_not_found":
        return ConfigError(f"The stage `{dotted}` in {where} has no kind.", "Give it a `kind`: sft, rl or mopd.")
    return ConfigError(f"`{dotted}` is {problem['input']!r} in {where}.", problem["msg"] + ".")


def _yaml_path(loc: tuple[int | str, ...], mapping: Mapping[str, Any]) -> list[str]:
    """pydantic's location without the union tags it inserts."""
    path = [str(part) for part in loc]
    if len(path) > 2 and path[0] == "stages" and path[2] == mapping["stages"][path[1]].get("kind"):
        del path[2]
    return [part for part in path if part != "[key]"]


def _keys_of(schema: Any, path: Sequence[str], mapping: Any) -> list[str]:
    """The keys that are valid at `path`, walking the dataclasses of the schema."""
    if typing.get_origin(schema) is typing.Annotated:
        schema = typing.get_args(schema)[0]
    if typing.get_origin(schema) in (typing.Union, types.UnionType):
        options = typing.get_args(schema)
        schema = next((o for o in options if getattr(o, "kind", None) == mapping.get("kind")), options[0])
    if not path:
        return [_alias(field) for field in dataclasses.fields(schema)]
    if typing.get_origin(schema) in (dict, list):
        inner = typing.get_args(schema)[-1]
    else:
        hints = typing.get_type_hints(schema, include_extras=True)
        inner = next(hints[field.name] for field in dataclasses.fields(schema) if _alias(field) == path[0])
    here = mapping[int(path[0])] if isinstance(mapping, list) else mapping.get(path[0], {})
    return _keys_of(inner, path[1:], here)


def _alias(field: dataclasses.Field[Any]) -> str:
    return getattr(field.default, "alias", None) or field.name
