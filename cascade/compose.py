"""Reads a recipe: YAML files and command-line overrides, composed by Hydra, checked against the closed schema."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.locations import conf_dir, recipe_names, recipes_dir
from cascade.naming import nearest
from cascade.origins import Origins
from cascade.recipe_errors import composition_error, validation_error

__all__ = ["Origins", "asked_for", "compose_mapping", "composed", "load_recipe", "recipe_names"]


def composed(words: Sequence[str]) -> tuple[Recipe, Origins]:
    """The recipe of a command line and where its keys came from; nothing is checked between keys."""
    name, overrides = asked_for(words)
    return load_recipe(name, overrides)


def asked_for(words: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe that a command line names, and its overrides. Raises `ConfigError` for none and for several."""
    named = [word.removeprefix("recipe=") for word in words if word.startswith("recipe=")]
    if not named:
        meant = next((word for word in words if word in recipe_names()), "NAME")
        raise ConfigError("No recipe was named.", f"Add `recipe={meant}`. {nearest('', recipe_names(), 'recipe')}")
    if len(named) > 1:
        raise ConfigError(f"Several recipes were named: {', '.join(named)}.", "Name one; a recipe file can inherit.")
    return named[0], [word for word in words if not word.startswith("recipe=")]


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Origins]:
    """The recipe called `recipe` (or the YAML file at that path) with overrides applied, checked key by key.

    Raises `ConfigError` naming the key, the file and the nearest valid name.
    """
    mapping, origins = compose_mapping(recipe, overrides)
    try:
        return TypeAdapter(Recipe).validate_python(mapping), origins
    except ValidationError as error:
        raise validation_error(error, mapping, origins) from None


def compose_mapping(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Origins]:
    """Hydra's composition as plain dicts, and where each key came from. Raises `ConfigError`."""
    file = _recipe_file(recipe)
    search_path = f"hydra.searchpath=[file://{recipes_dir()},file://{conf_dir()}]"
    whole = _whole_sections(overrides, file.parent)
    kept = [word for word in overrides if word.partition("=")[0] not in whole]
    everything = [search_path, *(_forced(override) for override in kept)]
    origins = Origins(overrides, [(file, "")])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(file.parent.resolve()), version_base="1.3"):
            origins = Origins(overrides, [*_files(file, everything), *((path, name) for name, path in whole.items())])
            config = compose(file.stem, overrides=everything)
            _replace_sections(config, whole, kept)
            mapping = _plain(config, file.stem)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise composition_error(file, error, origins) from None
    _refuse_hydra(origins)
    return mapping, origins


WHOLE = ("model", "cluster")
"""Sections that are replaced as one where the command line names a file for them: what a recipe says of its own model
does not fit another one."""


def _whole_sections(overrides: Sequence[str], beside: Path) -> dict[str, Path]:
    """Section -> the file that the last `model=NAME` or `cluster=NAME` asks for, by name or as a path to a .yaml."""
    found: dict[str, Path] = {}
    for word in overrides:
        section, equals, name = word.partition("=")
        if section not in WHOLE or not equals or name.startswith(("{", "[")) or not name:
            continue
        if name.endswith(".yaml"):
            file = Path(name)
        else:
            folders = (beside / section, Path("conf") / section, conf_dir() / section)
            named = [folder / f"{name}.yaml" for folder in folders]
            file = next((path for path in named if path.is_file()), named[-1])
        if not file.is_file():
            known = sorted(path.stem for path in (conf_dir() / section).glob("*.yaml"))
            said = f"There is no {section} `{name}`, which `{word}` asks for."
            raise ConfigError(said, nearest(name, known, section))
        found[section] = file
    return found


def _replace_sections(composed: DictConfig, whole: Mapping[str, Path], overrides: Sequence[str]) -> None:
    """Puts the files in place of the sections, and the command line's own keys of these sections over them."""
    parser = OverridesParser.create()
    with open_dict(composed):
        for section, file in whole.items():
            composed[section] = OmegaConf.create(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
            for word in overrides:
                parsed = parser.parse_override(word)
                path = parsed.key_or_group
                if not path.startswith(f"{section}."):
                    continue
                if parsed.is_delete():
                    holder, _, key = path.rpartition(".")
                    OmegaConf.select(composed, holder).pop(key, None)
                else:
                    OmegaConf.update(composed, path, parsed.value(), merge=True, force_add=True)


def _recipe_file(recipe: str) -> Path:
    if "/" in recipe or recipe.endswith((".yaml", ".yml")):
        file = Path(recipe)
        if not file.is_file():
            beside = [str(other) for other in file.parent.glob("*.yaml")]
            raise ConfigError(f"There is no recipe file at {recipe}.", nearest(recipe, beside, "recipe file"))
        if file.suffix != ".yaml":
            raise ConfigError(f"The recipe file {recipe} does not end in .yaml.", "Rename it: Hydra reads no other.")
        return file
    alike = [name for name in recipe_names() if name.replace("-", "_") == recipe.replace("-", "_")]
    file = recipes_dir() / f"{alike[0] if alike else recipe}.yaml"
    if not file.is_file():
        raise ConfigError(f"There is no recipe called `{recipe}`.", nearest(recipe, recipe_names(), "recipe"))
    return file


def _forced(override: str) -> str:
    """Turns `key=value` into Hydra's add-or-replace form, so that our schema and not Hydra judges the key."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise _unreadable(override, str(error).splitlines()[0]) from None
    if not parsed.key_or_group:
        raise _unreadable(override, "it names no key")
    if parsed.key_or_group.split(".")[0] == "hydra":
        raise ConfigError(f"Unknown key `{parsed.key_or_group}` in the override `{override}`.", _HYDRA)
    if parsed.is_sweep_override():
        raise ConfigError(f"`{override}` gives several values.", "Give one, or quote a list: `'key=[a,b]'`.")
    if parsed.is_delete():
        return override
    if parsed.key_or_group.split("@")[0] in _groups():
        return _chosen(override, parsed)
    if parsed.value() == {}:
        raise ConfigError(f"`{override}` changes nothing.", "A mapping is merged into what is there: give its keys.")
    return "++" + override.lstrip("+")


_HYDRA = "A run's folder is `run_dir`; Hydra's own settings do nothing here."


def _unreadable(override: str, why: str) -> ConfigError:
    fix = """Write KEY=VALUE, and quote a value with special characters: `'run_dir="a=b"'`."""
    return ConfigError(f"The override `{override}` cannot be read: {why}.", fix)


def _groups() -> set[str]:
    return {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}


def _chosen(override: str, parsed: Override) -> str:
    """An override that chooses one file of a group, as it is."""
    group, value = parsed.key_or_group.split("@")[0], parsed.value()
    if not isinstance(value, str):
        options = [file.stem for file in (conf_dir() / group).glob("*.yaml")]
        said = f"The override `{override}` does not name a file of conf/{group}."
        raise ConfigError(said, nearest(str(value), options, group) + f" Single keys: `{group}.KEY=VALUE`.")
    return override


def _plain(config: DictConfig, name: str) -> dict[str, Any]:
    if config.get("name") is None:
        with open_dict(config):
            config["name"] = name
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def _refuse_hydra(origins: Origins) -> None:
    """Hydra takes a `hydra:` section of a file for itself, and here nothing would come of it."""
    if origins.in_a_file(["hydra"]):
        raise ConfigError(f"Unknown key `hydra` in {origins.of(['hydra'])}.", _HYDRA)


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
