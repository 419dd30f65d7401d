"""Which files of a repository a repair may change: not the tests, and nothing that decides how they run."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

from cascade.environments.patches import Changes, PatchError, checked_path, touched
from cascade.environments.swe_formats import is_test
from cascade.environments.swe_repository import Prepared
from cascade.environments.swe_room import LAYOUTS, PYTEST
from cascade.environments.swe_rows import SweTask

SETTINGS = {
    *("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg"),
    *("pyproject.toml", "sitecustomize.py", "usercustomize.py", "pyvenv.cfg", "pytestdebug.log"),
}
SUFFIXES = {".pth", ".pyc", ".pyo", ".egg-link"}


def accepted(task: SweTask, prepared: Prepared, changes: Changes) -> tuple[Changes, tuple[str, ...]]:
    """The changes that count, and the paths of those that do not.

    What the oracle changes is source whatever it is called, unless it says how tests run. Changes that change nothing
    are left out of both.
    """
    source = set(touched(task.patch))
    tests = {*touched(task.test_patch), *task.test_files, *(name.split("::")[0] for name in task.fail_to_pass)}
    tests |= {name.split("::")[0] for name in task.pass_to_pass}
    kept, dropped = Changes(), []
    for path, text in sorted(changes.items()):
        if prepared.read(path) == text:
            continue
        no_source = path not in source and (path in tests or is_test(path))
        if no_source or _decides(path) or _shadows(path, prepared):
            dropped.append(path)
        else:
            kept[path] = text
    return kept, tuple(dropped)


def _decides(path: str) -> bool:
    """Whether a file says how tests run, or is none of a repository's."""
    try:
        place = PurePosixPath(checked_path(path))
    except PatchError:
        return True
    return place.name in SETTINGS or place.suffix in SUFFIXES or "__pycache__" in place.parts


def _shadows(path: str, prepared: Prepared) -> bool:
    """Whether a new file would be imported in place of the standard library's or pytest's."""
    parts = path.split("/")
    top = parts[1] if parts[0] in LAYOUTS and len(parts) > 1 else parts[0]
    module = top.partition(".")[0]
    known = module in sys.stdlib_module_names or module in PYTEST
    return known and prepared.read(path) is None and not any(p.startswith(f"{module}/") for p in prepared.files())
