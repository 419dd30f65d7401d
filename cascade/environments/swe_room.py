"""A room that shows a task's repository, to be worked in or graded in."""

from __future__ import annotations

import functools
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from cascade.environments.patches import Changes
from cascade.environments.swe_repository import Prepared, cache_folder, made_once
from cascade.errors import ConfigError
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Furniture, Room, Sandbox

REPOSITORY = "/testbed"
"""Where the repository lies, inside: the place that SWE-bench has made usual."""
TESTING = "/testing"
"""Where pytest lies, inside."""
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
LAYOUTS = ("src", "lib")
DELETED_AT_ONCE = 500


def open_room(box: Sandbox, prepared: Prepared, limits: Limits) -> Room:
    """A fresh copy-on-write layer over the repository, as the task begins: with `prepared.changes` written.

    Raises:
        SandboxError: no room can be opened.
        ConfigError: pytest is not installed here.
    """
    room = box.open(limits, furniture(prepared))
    try:
        write(room, dict(prepared.changes))
    except BaseException:
        room.close()
        raise
    return room


def furniture(prepared: Prepared) -> Furniture:
    """The repository, pytest and nothing else of this environment's packages, and the PYTHONPATH that finds both."""
    path = ":".join(python_path(prepared))
    return Furniture(
        read_only={TESTING: testing_folder()},
        copy_on_write={REPOSITORY: prepared.folder},
        variables={"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"},
    )


def python_path(prepared: Prepared) -> list[str]:
    """Where imports are looked for, inside: the repository, its `src` where it has one, and pytest."""
    layouts = [name for name in LAYOUTS if (prepared.folder / name).is_dir()]
    return [REPOSITORY, *(f"{REPOSITORY}/{name}" for name in layouts), TESTING]


def write(room: Room, changes: Changes) -> None:
    """Makes the files of a room's repository those of `changes`; files may become folders, and folders files."""
    gone = [path for path, text in changes.items() if text is None]
    emptied = {str(folder) for path in gone for folder in PurePosixPath(path).parents}
    gone += [path for path, text in changes.items() if text is not None and path in emptied]
    for start in range(0, len(gone), DELETED_AT_ONCE):
        names = (f"{REPOSITORY}/{path}" for path in gone[start : start + DELETED_AT_ONCE])
        room.run(("rm", "-rf", "--", *names), folder="/")
    for path, text in changes.items():
        if text is not None:
            room.write(f"{REPOSITORY}/{path}", text)


@functools.cache
def testing_folder() -> Path:
    """A folder with pytest and what it imports, and nothing else. Raises `ConfigError` where it is not installed."""
    places = {name: _package(name) for name in PYTEST}
    versions = "-".join(f"{name}-{version(name)}" for name in PYTEST if name not in ("_pytest", "py"))

    def fill(made: Path) -> Path:
        for name, place in places.items():
            if place.is_dir():
                shutil.copytree(place, made / "tree" / name)
            else:
                shutil.copy2(place, made / "tree" / place.name)
        return made / "tree"

    return made_once(cache_folder() / "testing" / f"{versions}-{sys.implementation.cache_tag}", fill)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"SWE environments run tests with pytest, and {name} is missing.", "`pip install pytest`.")
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
