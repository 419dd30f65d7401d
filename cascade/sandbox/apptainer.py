"""Rooms in container images, by Apptainer. Written by its documentation; tests run it against a stand-in.

A room is an instance of an image with a writable layer in memory. What Apptainer does not hold itself: the size of that
layer is `sessiondir max size` of the machine's apptainer.conf, and CPU seconds and the peak of memory are not known.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from cascade.errors import SandboxError
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.outputs import Outputs
from cascade.sandbox.ports import HOME, Furniture, Room
from cascade.sandbox.verdict import status_of

START_S = 600.0  # an image may have to be fetched and unpacked first
GRACE_S = 5.0  # for Apptainer's own work before and behind a program
SOURCES = "/.cascade"  # where folders lie that are to be copied, inside
KILLED = 128 + 9  # how a program ends that the kernel ended for its memory
_END_ALL = ("/bin/sh", "-c", "kill -KILL -1")  # all but the first process of the namespace, this one included
_WITH_LINE = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execvp(sys.argv[2], sys.argv[2:])"
_COPY = 'mkdir -p -- "$2" && cp -a "$1/." "$2"'
_WRITE = 'mkdir -p -- "$2" && rm -rf -- "$1" && cat > "$1" && chmod "$3" "$1"'


@dataclass(frozen=True)
class Apptainer:
    """The back end `apptainer`. Rooms show an image in place of this machine's programs.

    Args:
        image: a .sif file, a folder, or e.g. `docker://swebench/sweb.eval.x86_64.astropy_1776_astropy-12907`.
        binary: the program.
    """

    image: str = ""
    binary: str = "apptainer"

    @property
    def name(self) -> str:
        return "apptainer"

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        """See `Sandbox.open`."""
        if not self.image:
            raise SandboxError("sandbox=apptainer opens images, and none is named.", "Give the row an `image`.")
        return _Instance(self, limits, furniture or Furniture())


def found(image: str = "") -> Apptainer:
    """The back end with this machine's Apptainer. Raises `SandboxError` where there is none."""
    for name in ("apptainer", "singularity"):
        if path := shutil.which(name):
            return Apptainer(image, path)
    raise SandboxError("There is no Apptainer here.", "Install it: https://apptainer.org/docs/admin/latest.")


def start_words(binary: str, image: str, name: str, limits: Limits, furniture: Furniture) -> list[str]:
    """The command that starts an instance. Raises `SandboxError` for a path that Apptainer cannot be told."""
    words = [binary, "--silent", "instance", "start", "--cleanenv", "--pid", "--ipc", "--no-privs", "--writable-tmpfs"]
    words += ["--no-mount", "home,tmp,cwd,bind-paths,hostfs", "--net", "--network", "none"]
    words += ["--memory", f"{limits.memory_mib}M", "--memory-swap", f"{limits.memory_mib}M"]
    words += ["--pids-limit", str(limits.processes), "--cpus", f"{limits.cpus:g}"]
    shown = {inside: str(path.resolve()) for inside, path in furniture.read_only.items()}
    for number, path in enumerate(furniture.copy_on_write.values()):
        shown[f"{SOURCES}/{number}"] = str(path.resolve())
    for inside, path in shown.items():
        if {":", ","} & {*inside, *path}:
            raise SandboxError(f"Apptainer cannot show {path} at {inside}.", "Use paths without colons and commas.")
        words += ["--bind", f"{path}:{inside}:ro"]
    return [*words, image, name]


def run_words(binary: str, name: str, command: Sequence[str], folder: str, variables: Mapping[str, str]) -> list[str]:
    """The command that runs a program in an instance."""
    given = [f"{key}={value}" for key, value in {"HOME": HOME, "LANG": "C.UTF-8", **variables}.items()]
    return [binary, "--silent", "exec", "--cleanenv", "--pwd", folder, f"instance://{name}", "env", *given, *command]


class _Instance:
    """A running instance. See `Room`."""

    def __init__(self, box: Apptainer, limits: Limits, furniture: Furniture) -> None:
        """Starts it. Raises `SandboxError`."""
        self.limits = limits
        self._binary = box.binary
        self._name = f"cascade-{uuid.uuid4().hex[:16]}"
        self._variables = furniture.variables
        self._open = True
        self._lines = False  # known to reach programs
        words = start_words(box.binary, box.image, self._name, limits, furniture)
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_S, check=False, env=_own_variables()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.close()
            raise SandboxError(f"{box.image} cannot be started: {error}.", "Start it by hand.") from None
        if done.returncode:
            self.close()
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise SandboxError(f"{box.image} cannot be started: {said}", "Start it by hand.")
        try:
            self._must("mkdir", "-p", HOME)
            for number, inside in enumerate(furniture.copy_on_write):
                self._must("/bin/sh", "-c", _COPY, "sh", f"{SOURCES}/{number}", inside)
        except SandboxError:
            self.close()
            raise

    def write(self, path: str, data: bytes, executable: bool = False) -> None:
        """See `Room.write`."""
        target = posixpath.join(HOME, path)
        mode = "755" if executable else "644"
        self._must("/bin/sh", "-c", _WRITE, "sh", target, posixpath.dirname(target), mode, stdin=data)

    def run(
        self,
        command: Sequence[str],
        stdin: bytes = b"",
        *,
        time_s: float | None = None,
        folder: str = HOME,
        variables: Mapping[str, str] | None = None,
        line: socket.socket | None = None,
        keep: bool = False,
    ) -> Outcome:
        """See `Room.run`. Raises `SandboxError` for a `line`, where descriptors do not reach into instances."""
        time_s = self.limits.time_s if time_s is None else time_s
        if line is not None:
            self._check_lines()
        outcome = self._run(command, stdin, time_s, folder, variables or {}, line)
        if not keep or outcome.exit_code is None:
            self._run(_END_ALL, b"", GRACE_S, "/", {})
        return outcome

    def close(self) -> None:
        """See `Room.close`."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                words = [self._binary, "--silent", "instance", "stop", "--signal", "SIGKILL", self._name]
                subprocess.run(words, capture_output=True, timeout=60, check=False, env=_own_variables())

    def __enter__(self) -> _Instance:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check_lines(self) -> None:
        """Whether programs get the descriptors that Apptainer is given. Raises `SandboxError`."""
        if self._lines:
            return
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._run(("/bin/sh", "-c", "echo >&3"), b"", START_S, "/", {}, theirs)
            if not ours.recv(1):
                raise SandboxError(
                    "Apptainer hands programs no descriptors.", "Use sandbox=bwrap, or a newer Apptainer."
                )
        self._lines = True

    def _must(self, *command: str, stdin: bytes = b"") -> None:
        """Runs what has to succeed. Raises `SandboxError`."""
        outcome = self._run(command, stdin, START_S, "/", {})
        if outcome.status != "ok":
            said = outcome.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxError(f"{command[0]} failed in an instance: {said or outcome.status}.", "Open another.")

    def _run(
        self,
        command: Sequence[str],
        stdin: bytes,
        time_s: float,
        folder: str,
        variables: Mapping[str, str],
        line: socket.socket | None = None,
    ) -> Outcome:
        if not self._open:
            raise SandboxError("A room takes no orders: it is closed.", "Open another.")
        words = run_words(self._binary, self._name, command, folder, {**self._variables, **variables})
        if line is not None:
            words = [sys.executable, "-S", "-c", _WITH_LINE, str(line.fileno()), *words]
        outputs = Outputs(self.limits.output_kib * 1024)
        began = time.monotonic()
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            try:
                process = subprocess.Popen(
                    words,
                    stdin=given,
                    stdout=outputs.stdout,
                    stderr=outputs.stderr,
                    env=_own_variables(),
                    pass_fds=[line.fileno()] if line else [],
                )
            except OSError as error:
                raise SandboxError(f"{self._binary} does not run: {error}.", "Install Apptainer anew.") from None
            finally:
                os.close(outputs.stdout)
                os.close(outputs.stderr)
        ended = os.pidfd_open(process.pid)
        in_time = outputs.read(began + time_s, ended, process.kill)
        os.close(ended)
        process.kill()
        code = process.wait()
        wall_s = time.monotonic() - began
        out, err = outputs.close()
        if not in_time:
            return Outcome("timeout", None, out, err, wall_s, 0.0, 0.0)
        if outputs.too_much:
            return Outcome("output_limit", None, out, err, wall_s, 0.0, 0.0)
        if code == KILLED:
            return Outcome("memory", None, out, err, wall_s, 0.0, 0.0)
        if 128 < code < 128 + signal.NSIG:
            code = 128 - code  # as a program's parent sees a signal, not as a shell does
        return Outcome(status_of(code, None, False, err), code, out, err, wall_s, 0.0, 0.0)


def _own_variables() -> dict[str, str]:
    """What Apptainer needs of ours; programs get none of it."""
    kept = ("PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR")
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or (key.startswith(("APPTAINER_", "SINGULARITY_")) and "ENV_" not in key)
    }
