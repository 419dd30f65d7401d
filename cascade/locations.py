"""Where Cascade's own files lie: in a source tree or an editable install, or inside an installed wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cascade.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The Hydra groups. Raises `ConfigError` when they are not where they belong."""
    return _shipped("conf")


def recipes_dir() -> Path:
    """The recipes that ship with Cascade. Raises `ConfigError` when they are not where they belong."""
    return _shipped("recipes")


def recipe_names() -> list[str]:
    """The recipes that ship with Cascade."""
    return sorted(file.stem for file in recipes_dir().glob("*.yaml"))


def extensions_dir() -> Path:
    """Where this environment keeps its compiled DeepSpeed operators: `$TORCH_EXTENSIONS_DIR`, else inside the venv.

    In the environment and not in `~/.cache`: an operator is bound to the torch it was compiled against.
    """
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(chosen) if chosen else Path(sys.prefix) / "torch_extensions"


def _shipped(name: str) -> Path:
    """A wheel holds the folder inside the package; a source tree holds it beside the package."""
    inside, beside = PACKAGE / name, PACKAGE.parent / name
    if inside.is_dir():
        return inside
    # site-packages may hold somebody else's `conf`; only a source tree has our pyproject.toml next to it.
    if beside.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file():
        return beside
    raise ConfigError(
        f"The folder {name}/ that ships with Cascade is neither at {inside} nor at {beside}.",
        "Install Cascade again, from a complete source tree or wheel.",
    )
