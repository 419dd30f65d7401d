"""Cascade finds its own files in a source tree and in a wheel, and nobody else's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cascade import locations
from cascade.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cascade"
    folder.mkdir()
    monkeypatch.setattr(locations, "PACKAGE", folder)
    return folder


def test_this_source_tree_has_both_folders() -> None:
    root = Path(__file__).resolve().parent.parent
    assert (locations.conf_dir(), locations.recipes_dir()) == (root / "conf", root / "recipes")


def test_a_wheel_holds_the_folders_inside_the_package(package: Path) -> None:
    for name in ("conf", "recipes"):
        (package / name).mkdir()
    assert (locations.conf_dir(), locations.recipes_dir()) == (package / "conf", package / "recipes")


def test_a_source_tree_holds_the_folders_beside_the_package(package: Path) -> None:
    (package.parent / "pyproject.toml").touch()
    for name in ("conf", "recipes"):
        (package.parent / name).mkdir()
    assert (locations.conf_dir(), locations.recipes_dir()) == (package.parent / "conf", package.parent / "recipes")


def test_a_conf_of_some_other_package_in_site_packages_is_not_ours(package: Path) -> None:
    (package.parent / "conf").mkdir()
    with pytest.raises(ConfigError, match="conf/"):
        locations.conf_dir()


def test_missing_folders_are_a_config_error_that_names_them(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipes/.*Install Cascade again"):
        locations.recipes_dir()


def test_compiled_operators_belong_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert locations.extensions_dir() == Path(sys.prefix) / "torch_extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/somewhere")
    assert locations.extensions_dir() == Path("/somewhere")
