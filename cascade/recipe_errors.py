"""From what Hydra, OmegaConf, YAML and pydantic raise to one sentence of what is wrong and where."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cascade.config import STAGES, keys_at, yaml_names
from cascade.errors import ConfigError
from cascade.locations import conf_dir, recipe_names
from cascade.naming import closest, nearest
from cascade.origins import Origins

SHOULD_BE = {
    "int_type": "It should be a whole number.",
    "float_type": "It should be a number.",
    "bool_type": "It should be true or false.",
    "string_type": "It should be text; quote what only looks like a number.",
    "list_type": "It should be a list.",
    "dict_type": "It should be a mapping of keys to values.",
    "dataclass_type": "It should be a mapping of keys to values.",
    "model_attributes_type": "It should be a mapping of keys to values.",
}


def composition_error(file: Path, error: Exception, origins: Origins) -> ConfigError:
    """What to say when the files and overrides of the recipe at `file` do not become one mapping."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return ConfigError(f"{mark.name}:{mark.line + 1} is not YAML: {error.problem}.", "Correct the syntax there.")
    if isinstance(error, (UnicodeDecodeError, yaml.YAMLError)):
        return ConfigError(f"{file}, or a file it inherits, is not UTF-8 text: {error}.", "Save it as UTF-8.")
    if isinstance(error, RecursionError):
        return ConfigError(
            f"The `defaults` of {file} come back to a recipe called `{file.stem}`.",
            "Give a file another name than the recipe it inherits.",
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(str(error.missing_cfg_file), file, origins)
    if isinstance(error, OmegaConfBaseException):
        return _unresolved(error, origins)
    return _refused_by_hydra(file, str(error), origins)


def _missing_file(missing: str, file: Path, origins: Origins) -> ConfigError:
    group, _, option = missing.rpartition("/")
    where = _mention(option, file, origins)
    if group and (conf_dir() / group).is_dir():
        options = {found.stem for folder in (conf_dir(), file.parent) for found in (folder / group).glob("*.yaml")}
        return ConfigError(f"There is no `{group}={option}`, which {where} asks for.", nearest(option, options, group))
    if group:
        groups = [folder.name for folder in conf_dir().iterdir() if folder.is_dir()]
        return ConfigError(f"There is no `{missing}`, which {where} asks for.", nearest(group, groups, "group"))
    return ConfigError(
        f"There is no recipe called `{missing}`, which {where} inherits.", nearest(missing, recipe_names(), "recipe")
    )


def _mention(name: str, file: Path, origins: Origins) -> str:
    """The override that ends in `=name`, or the line of the file that holds it."""
    for override in reversed(origins.overrides):
        if override.endswith(f"={name}"):
            return f"the override `{override}`"
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    return next((f"{file}:{number}" for number, line in lines if re.search(rf"\b{re.escape(name)}\b", line)), str(file))


def _unresolved(error: OmegaConfBaseException, origins: Origins) -> ConfigError:
    key, why = str(error.full_key or ""), str(error).splitlines()[0]
    where = origins.of(re.split(r"[.\[\]]+", key.strip("]")))
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"`{key}` has no value in {where}.", f"Set it: `{key}=VALUE`.")
    return ConfigError(f"`{key}` in {where} cannot be resolved: {why}.", "Correct what stands in `${...}`.")


def _refused_by_hydra(file: Path, text: str, origins: Origins) -> ConfigError:
    if merged := re.match(r"Error merging override \+*([^=]+)=", text):
        where = origins.of(merged[1].split("."))
        return ConfigError(f"`{merged[1]}` is a mapping, and {where} gives a list, or the reverse.", "Give its keys.")
    if deleted := re.match(r"Could not delete from config\. '(.+)' does not exist", text):
        return _nothing_to_delete(deleted[1].split("."), origins)
    if "ConfigTypeError" in text and (clash := origins.clash()):
        path, where = clash
        return ConfigError(
            f"`{'.'.join(path)}` is a list in {where}, or a mapping, and was the other.", "Give its keys."
        )
    if absent := re.match(r"Could not override '(\w+)(@[\w.]+)?'", text):
        choices = re.search(r"override (?:one of )?(.*)\?", text)
        adding = f"To add one, write `+{absent[1]}{absent[2] or f'@{absent[1]}s.NAME'}=FILE`."
        return ConfigError(
            f"There is no `{absent[1]}{absent[2] or ''}` to choose another file for.",
            f"{f'There is {choices[1]}. ' if choices else ''}{adding}",
        )
    first, *others = [line.strip() for line in text.splitlines()] or ["no reason given"]
    return ConfigError(
        f"The recipe {file} does not compose: {first.rstrip('.')}.", " ".join(others) or "Correct the key or the value."
    )


def _nothing_to_delete(path: list[str], origins: Origins) -> ConfigError:
    here: Any = origins.merged()
    for part in path[:-1]:
        here = here.get(part, {}) if isinstance(here, dict) else {}
    where = origins.of(path)
    return ConfigError(f"There is no `{'.'.join(path)}` to remove, as {where} asks.", nearest(path[-1], here, "key"))


def validation_error(error: ValidationError, mapping: Mapping[str, Any], origins: Origins) -> ConfigError:
    """One clear error for the first thing that is wrong, unknown keys first: they are the cause of missing ones."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    path = _yaml_path(problem["loc"], mapping)
    dotted, where = ".".join(path), origins.of(path)
    if "[key]" in problem["loc"]:
        return ConfigError(f"The name `{path[-1]}` of `{dotted}` in {where} is not text.", "Quote it.")
    if problem["type"] == "unexpected_keyword_argument":
        return _unknown_key(path, mapping, origins)
    if problem["type"] == "missing":
        fix = _instead(path[:2], mapping, origins) or "Add it: it has no default."
        return ConfigError(f"The key `{dotted}` is missing in {where}.", fix)
    if problem["type"] == "union_tag_invalid":
        kind, where = str(problem["input"]["kind"]), origins.of([*path, "kind"])
        return ConfigError(f"`{dotted}.kind` is `{kind}` in {where}.", nearest(kind, STAGES, "stage kind"))
    if problem["type"] == "union_tag_not_found":
        fix = _instead(path, mapping, origins) or f"Give it a `kind`: {', '.join(STAGES)}."
        return ConfigError(f"The stage `{dotted}` in {origins.of([*path, 'kind'])} has no kind.", fix)
    shown = json.dumps(problem["input"], ensure_ascii=False, default=str)
    return ConfigError(f"`{dotted}` is {shown} in {where}.", _should_be(problem))


def _should_be(problem: ErrorDetails) -> str:
    choices = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    if choices:
        return nearest(str(problem["input"]), choices, "value")
    return SHOULD_BE.get(problem["type"], problem["msg"].replace("Input", "It") + ".")


def _unknown_key(path: list[str], mapping: Mapping[str, Any], origins: Origins) -> ConfigError:
    said = f"Unknown key `{'.'.join(path)}` in {origins.of(path)}."
    elsewhere = [kind for kind, stage in STAGES.items() if path[-1] in yaml_names(stage)]
    if len(path) == 3 and path[0] == "stages" and elsewhere:
        kind = mapping["stages"][path[1]]["kind"]
        return ConfigError(
            f"{said} `{path[1]}` is of kind {kind}, and {kind} stages have no such key.",
            f"{' and '.join(elsewhere)} stages have it: remove it, or change the stage's kind.",
        )
    return ConfigError(said, nearest(path[-1], keys_at(path[:-1], mapping), "key"))


def _instead(path: Sequence[str], mapping: Mapping[str, Any], origins: Origins) -> str | None:
    """A hint for `stages.if_rll.max_steps=3`, which made a new stage where an old one was meant."""
    if path[0] not in ("stages", "environments") or len(path) < 2 or origins.in_a_file(path):
        return None
    meant = closest(path[1], [name for name in mapping[path[0]] if name != path[1]])
    return meant and f"Did you mean `{path[0]}.{meant}`?"


def _yaml_path(loc: tuple[int | str, ...], mapping: Mapping[str, Any]) -> list[str]:
    """pydantic's location without the union tags it inserts."""
    path = [str(part) for part in loc if part != "[key]"]
    stages = mapping.get("stages")
    if len(path) > 2 and path[0] == "stages" and isinstance(stages, Mapping):
        stage = stages.get(loc[1])
        if isinstance(stage, Mapping) and path[2] == stage.get("kind"):
            del path[2]
    return path
