"""`pip install .` gives a Cascade that has everything it needs, without the source tree beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("cascade", "conf", "recipes")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the tree: setuptools writes build/ where it builds, and reuses what it finds there."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tree)
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(tree))
    (built,) = out.glob("cascade_rl-*.whl")
    return built


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """Standard output of this Python with `arguments`; fails with everything it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source_files() -> set[str]:
    """What has to be in the wheel, by the name it has there."""
    wanted = {path for path in (ROOT / "cascade").rglob("*") if path.suffix in (".py", ".jinja")}
    names = {path.relative_to(ROOT).as_posix() for path in wanted}
    for folder in ("conf", "recipes"):
        files = (path for path in (ROOT / folder).rglob("*") if path.suffix in (".yaml", ".py"))
        names |= {f"cascade/{path.relative_to(ROOT).as_posix()}" for path in files}
    return names


def test_the_wheel_holds_every_module_template_config_group_and_recipe(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert source_files() - inside == set(), "a folder of modules needs an __init__.py to be found"


def test_the_wheel_holds_nothing_but_cascade(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cascade"}


def test_a_wheel_on_the_path_finds_its_own_conf_and_recipes(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from cascade.locations import *; print(conf_dir(), recipes_dir())"
    printed = run("-c", code, cwd=tmp_path.parent, PYTHONPATH=str(tmp_path))
    assert printed.split() == [str(tmp_path / "cascade" / "conf"), str(tmp_path / "cascade" / "recipes")]


@pytest.mark.slow
def test_the_installed_command_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = run(str(target / "bin" / "cascade"), "--help", cwd=elsewhere, PYTHONPATH=str(target))
    assert "run" in printed
