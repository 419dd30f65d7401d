"""Memory, processes and cores of a room together, held by the kernel's control groups, version 1 or 2."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import SandboxError
from cascade.sandbox.limits import Limits

CONTROLLERS = ("memory", "pids", "cpu")
PERIOD_US = 100_000
PREFIX = "cascade-room-"
ASIDE = "cascade-self"
USUAL_WEIGHT, MOST_WEIGHT = ("1024", "100"), ("262144", "10000")
KILL_ROUNDS = 8  # through a group whose processes start others meanwhile
GONE_S = 5.0  # how long the kernel may take to forget processes that were killed
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Mounted:
    """Where this process may make groups."""

    version: int
    folders: tuple[Path, ...]  # version 1: one a controller, in the order of CONTROLLERS; version 2: one


class Group:
    """The limits of one room. Everything that its first process starts belongs to it, and cannot leave."""

    def __init__(self, mounted: Mounted, limits: Limits) -> None:
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._version = mounted.version
        self._quota = int(limits.cpus * PERIOD_US)
        self._folders = [folder / name for folder in mounted.folders]
        try:
            for folder in self._folders:
                folder.mkdir()
            self._limit(limits)
        except OSError as error:
            self.remove()
            raise SandboxError(
                f"A control group cannot be made: {error}.", "See docs/sandbox.md, or choose another back end."
            ) from None

    @property
    def doors(self) -> list[str]:
        """Files that a process writes its id to in order to belong."""
        return [f"{folder}/cgroup.procs" for folder in self._folders]

    @property
    def kills(self) -> int:
        """Processes that were ended because the memory was used up."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        for line in (self._folders[0] / name).read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    @property
    def peak_memory_mib(self) -> float:
        """The most memory that was used at once, since the start; 0 where the kernel does not say."""
        name = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        try:
            return int((self._folders[0] / name).read_text()) / 2**20
        except FileNotFoundError:
            return 0.0

    def forget_peak(self) -> None:
        """Counts the most memory from here on, where the kernel can."""
        if self._version == 1:
            (self._folders[0] / "memory.max_usage_in_bytes").write_text("0")

    def members(self) -> set[int]:
        """Ids of all processes that belong to it."""
        return {int(line) for line in (self._folders[-1] / "cgroup.procs").read_text().split()}

    def end_all_but(self, spared: set[int]) -> None:
        """Kills the others. Until `slow_down` no core is withheld from what is left, also where others want them."""
        self._cores("max" if self._version == 2 else "-1")
        self._weigh(MOST_WEIGHT)
        for _ in range(KILL_ROUNDS):
            others = self.members() - spared
            for process in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if not others:
                return

    def slow_down(self) -> None:
        """Limits cores again."""
        self._cores(str(self._quota))
        self._weigh(USUAL_WEIGHT)

    def remove(self) -> None:
        """Ends what still belongs to it, and removes it. Idempotent."""
        for folder in self._folders:
            _remove(folder)

    def _limit(self, limits: Limits) -> None:
        memory = limits.memory_mib * 2**20
        self._cores(str(self._quota))
        if self._version == 2:
            (folder,) = self._folders
            (folder / "memory.max").write_text(str(memory))
            (folder / "pids.max").write_text(str(limits.processes + 2))
            _write_if_there(folder / "memory.swap.max", "0")
            return
        memory_folder, pids_folder, _ = self._folders
        (memory_folder / "memory.limit_in_bytes").write_text(str(memory))
        _write_if_there(memory_folder / "memory.memsw.limit_in_bytes", str(memory))
        (pids_folder / "pids.max").write_text(str(limits.processes + 2))  # with bubblewrap and the first process

    def _cores(self, quota: str) -> None:
        """`quota`: microseconds of all cores together, in each period of `PERIOD_US`."""
        folder = self._folders[-1]
        if self._version == 2:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            return
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(quota)

    def _weigh(self, weights: tuple[str, str]) -> None:
        """Against other groups: `cpu.shares` of version 1, `cpu.weight` of version 2."""
        name = "cpu.weight" if self._version == 2 else "cpu.shares"
        _write_if_there(self._folders[-1] / name, weights[self._version - 1])


def remove_of(process: int) -> None:
    """Removes the groups of rooms that a process has left behind, which has ended. Makes and raises nothing."""
    try:
        own = own_groups(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        folders = {folder for controller, folder in own if controller in (*CONTROLLERS, "")}
    except OSError:
        return
    for folder in folders | {folder.parent for folder in folders if folder.name == ASIDE}:
        for group in folder.glob(f"{PREFIX}{process}-*"):
            _remove(group)


def _remove(folder: Path) -> None:
    """Kills what belongs to a group and removes it, unless the kernel takes too long to forget it."""
    end = time.monotonic() + GONE_S
    while folder.exists():
        with contextlib.suppress(OSError):
            for process in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), 9)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                return
            time.sleep(0.001)


_found: list[Mounted] = []
_lock = threading.Lock()


def mounted() -> Mounted:
    """Where groups can be made. Raises `SandboxError` where they cannot."""
    with _lock:
        if not _found:
            _found.append(_look())
            _remove_stale(_found[0])
        return _found[0]


def _look() -> Mounted:
    mounts, memberships = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    own = dict(own_groups(mounts, memberships))
    if "" in own and (own[""] / "cgroup.controllers").exists():
        missing = set(CONTROLLERS) - set((own[""] / "cgroup.controllers").read_text().split())
        if not missing:
            return Mounted(2, (_delegated(own[""]),))
    try:
        folders = tuple(own[controller] for controller in CONTROLLERS)
    except KeyError as error:
        raise SandboxError(f"There is no control group for {error}.", ADVICE) from None
    for folder in folders:
        if not os.access(folder, os.W_OK):
            raise SandboxError(f"The control group {folder} belongs to somebody else.", ADVICE)
    return Mounted(1, folders)


ADVICE = (
    "Start under `systemd-run --user --scope -p Delegate=yes`, or let root make its control groups writable; "
    "or choose sandbox=bwrap_without_cgroups."
)


def own_groups(mountinfo: str, memberships: str) -> Iterator[tuple[str, Path]]:
    """The folder of this process's group by controller; version 2 is called by the empty name.

    From `/proc/self/mountinfo` and `/proc/self/cgroup`: paths there are those of the machine, while a container may
    have only a part of them mounted.
    """
    mounts = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            mounts[""] = (root, point)
        elif kind == "cgroup":
            mounts.update((option, (root, point)) for option in options.split(","))
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in mounts:
                root, point = mounts[controller]
                below = os.path.relpath(path, root)
                yield controller, Path(point) if below.startswith("..") else Path(point, below)


def _delegated(folder: Path) -> Path:
    """A version 2 group below which rooms can have groups of their own; its processes move aside for that."""
    try:
        aside = folder / ASIDE
        if folder != folder.parent and (folder / "cgroup.procs").read_text().split():
            aside.mkdir(exist_ok=True)
            for process in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (aside / "cgroup.procs").write_text(process)
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
    except OSError as error:
        raise SandboxError(f"The control group {folder} is not ours to divide: {error}.", ADVICE) from None
    return folder


def _remove_stale(found: Mounted) -> None:
    """Removes groups of processes that are gone."""
    for folder in found.folders:
        for group in folder.glob(f"{PREFIX}*"):
            owner = group.name.removeprefix(PREFIX).partition("-")[0]
            if not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    group.rmdir()


def _write_if_there(file: Path, text: str) -> None:
    if file.exists():
        file.write_text(text)
