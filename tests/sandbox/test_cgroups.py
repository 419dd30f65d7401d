"""Control groups: where they are found, what is written to them, and that none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.errors import SandboxError
from cascade.sandbox import cgroups
from cascade.sandbox.backends import sandbox
from cascade.sandbox.cgroups import PREFIX, Group, Mounted, own_groups
from cascade.sandbox.limits import Limits

LIMITS = Limits(memory_mib=100, processes=10, cpus=0.5)

VERSION_1 = """\
35 24 0:30 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755
36 35 0:31 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory
37 35 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
38 35 0:33 / /sys/fs/cgroup/pids rw shared:12 - cgroup cgroup rw,pids
39 35 0:34 / /sys/fs/cgroup/unified rw shared:13 - cgroup2 cgroup2 rw
"""
VERSION_2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINER = "30 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"


def test_version_1_has_a_folder_a_controller():
    found = dict(own_groups(VERSION_1, "4:memory:/job/7\n3:cpu,cpuacct:/\n2:pids:/job\n0::/\n"))
    assert found["memory"] == Path("/sys/fs/cgroup/memory/job/7")
    assert found["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found["pids"] == Path("/sys/fs/cgroup/pids/job")


def test_version_2_has_one_folder():
    found = dict(own_groups(VERSION_2, "0::/user.slice/user-1000.slice/run-1.scope\n"))
    assert found == {"": Path("/sys/fs/cgroup/user.slice/user-1000.slice/run-1.scope")}


def test_a_container_sees_its_own_part():
    assert dict(own_groups(CONTAINER, "0::/docker/abc/inner\n")) == {"": Path("/sys/fs/cgroup/inner")}
    assert dict(own_groups(CONTAINER, "0::/\n")) == {"": Path("/sys/fs/cgroup")}


def test_what_is_written_under_version_2(tmp_path: Path, monkeypatch):
    # A folder in the place of the kernel's: this machine has version 1.
    (tmp_path / "template").mkdir()
    made = Path.mkdir

    def with_files(self, *args, **options):
        made(self, *args, **options)
        for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs"):
            (self / name).write_text("")
        (self / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        (self / "memory.peak").write_text(str(3 * 2**20))

    monkeypatch.setattr(Path, "mkdir", with_files)
    group = Group(Mounted(2, (tmp_path,)), LIMITS)
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    assert (folder / "memory.max").read_text() == str(100 * 2**20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == "12"
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert group.doors == [f"{folder}/cgroup.procs"]
    assert (group.kills, group.peak_memory_mib) == (2, 3.0)


def test_a_group_that_is_not_ours_to_divide_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(SandboxError, match="Delegate=yes"):
        cgroups._delegated(tmp_path / "missing")


def own_rooms(process: int | str) -> list[Path]:
    return [group for folder in cgroups.mounted().folders for group in folder.glob(f"{PREFIX}{process}-*")]


def test_a_closed_room_leaves_no_group():
    box = sandbox("bwrap")
    before = own_rooms(os.getpid())
    with box.open(LIMITS) as room:
        room.run(("true",))
        assert len(own_rooms(os.getpid())) == len(before) + len(cgroups.mounted().folders)
    assert own_rooms(os.getpid()) == before


def test_groups_of_a_process_that_was_killed_are_removed_at_the_next_start():
    source = """
import os, signal
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
room = sandbox("bwrap").open(Limits())
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    dead = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=False).stdout.decode().strip()
    assert own_rooms(dead)
    again = "from cascade.sandbox import cgroups; cgroups.mounted()"
    for _ in range(100):  # the kernel may still be ending what was in them
        subprocess.run([sys.executable, "-c", again], check=True)
        if not own_rooms(dead):
            break
    assert own_rooms(dead) == []
