"""Programs as plain processes with all of this user's rights: for machines that have no sandbox, and for comparison."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from cascade.errors import SandboxError
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.outputs import Outputs
from cascade.sandbox.ports import HOME, Furniture, Room
from cascade.sandbox.verdict import status_of


class Unprotected:
    """The back end `none`. Holds the wall clock and the output; a process group that ends is all its protection."""

    name = "none"

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        """See `Sandbox.open`. Raises `SandboxError` for furniture, which needs a room with walls."""
        if furniture and (furniture.read_only or furniture.copy_on_write):
            raise SandboxError("sandbox=none shows no folders of its own.", "Use sandbox=bwrap.")
        return _Folder(limits, furniture.variables if furniture else {})


class _Folder:
    """A temporary folder in the place of a room."""

    def __init__(self, limits: Limits, variables: Mapping[str, str]) -> None:
        self.limits = limits
        self._home = Path(tempfile.mkdtemp(prefix="cascade-unprotected-"))
        self._variables = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._home), "PYTHONUTF8": "1"}
        self._variables |= {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", **variables}

    def write(self, path: str, data: bytes, executable: bool = False) -> None:
        """See `Room.write`."""
        target = self._home / path.removeprefix(f"{HOME}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if executable else 0o644)

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
        """See `Room.run`. Raises `SandboxError` for what needs a room with walls."""
        if line is not None or keep:
            raise SandboxError("sandbox=none runs one program at a time, and without a line.", "Use sandbox=bwrap.")
        words = [sys.executable, "-S", *command[1:]] if command[0] == "python" else [*command]
        at = self._home if folder == HOME else Path(folder)
        outputs = Outputs(self.limits.output_kib * 1024)
        used, began = _cpu_s(), time.monotonic()
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            try:
                process = subprocess.Popen(
                    words,
                    stdin=given,
                    stdout=outputs.stdout,
                    stderr=outputs.stderr,
                    cwd=at,
                    env={**self._variables, **(variables or {})},
                    start_new_session=True,
                )
            except OSError as error:
                outputs.close()
                return Outcome("runtime_error", 127, b"", f"{words[0]}: {error}\n".encode(), 0.0, 0.0, 0.0)
            finally:
                os.close(outputs.stdout)
                os.close(outputs.stderr)
        handle = os.pidfd_open(process.pid)
        in_time = outputs.read(
            began + (self.limits.time_s if time_s is None else time_s), handle, lambda: _end(process.pid)
        )
        os.close(handle)
        _end(process.pid)
        code = process.wait()
        wall_s = time.monotonic() - began
        out, err = outputs.close()
        status = status_of(code, None if in_time else "timeout", outputs.too_much, err)
        ended = status in ("timeout", "output_limit")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest program so far
        return Outcome(status, None if ended else code, out, err, wall_s, _cpu_s() - used, peak)

    def close(self) -> None:
        """See `Room.close`."""
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _cpu_s() -> float:
    """CPU seconds of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
