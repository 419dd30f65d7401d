"""Where the config of a model comes from when its weights are far away: declared, a folder, the hub's cache, conf/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from cascade.config import ModelConfig
from cascade.data.tokenizers import load_tokenizer
from cascade.errors import ConfigError
from cascade.locations import conf_dir
from cascade.models.loading import config_of_keys


def config_of(model: ModelConfig) -> tuple[str, Any]:
    """What to call the model, and its transformers config. Raises `ConfigError`; see `shapes.model_shape`."""
    if model.architecture and model.path:
        return model.path, config_of_keys(model.architecture, model.config)
    if model.architecture:
        return model.architecture, config_of_keys(model.architecture, {**model.config, **_vocabulary(model)})
    path = str(model.path)
    if Path(path).is_dir():
        return path, AutoConfig.from_pretrained(path)
    try:
        return path, AutoConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # not in the hub's local cache
        return path, _declared(path)


def _vocabulary(model: ModelConfig) -> dict[str, int]:
    """A model from scratch has as many tokens as its tokenizer, once that is on this machine."""
    if model.tokenizer == "characters" or Path(str(model.tokenizer)).is_dir():
        return {"vocab_size": len(load_tokenizer(model))}
    return {}


def _declared(path: str) -> Any:
    known = {}
    for file in sorted((conf_dir() / "model").glob("*.yaml")):
        keys = yaml.safe_load(file.read_text(encoding="utf-8"))
        if keys.get("path"):
            known[keys["path"]] = keys
    if path in known:
        return config_of_keys(known[path]["architecture"], known[path].get("config", {}))
    raise ConfigError(
        f"The shape of `model.path` {path} is not known here: no such folder, not in the hub's cache of this machine, "
        "and no file of conf/model declares it.",
        "Download its config.json once (`hf download NAME config.json`), or add `model.architecture` and "
        f"`model.config` with its sizes. Declared are {', '.join(sorted(known))}.",
    )
