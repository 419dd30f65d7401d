"""The outer end of a room: opens it, gives orders to its first process, reads what programs write, up to a limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from cascade.errors import SandboxError
from cascade.sandbox.cgroups import Group
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.outputs import Outputs
from cascade.sandbox.ports import HOME
from cascade.sandbox.spawning import spawned
from cascade.sandbox.verdict import status_of

START_S = 30.0  # deadline of a room's opening, on a machine however busy
GRACE_S = 1.0  # beyond a limit, then a room that has not ended its program is ended itself
ORDER_BYTES = 200_000


class ProcessRoom:
    """A room whose first process is a child of ours. See `Room`."""

    def __init__(
        self,
        words: Sequence[str],
        settings: Mapping[str, Any],
        limits: Limits,
        group: Group | None,
        given: Sequence[int],
    ) -> None:
        """Starts it. `given`: descriptors it inherits, closed here afterwards. Raises `SandboxError`."""
        self.limits = limits
        self._group = group
        self._process: subprocess.Popen[bytes] | None = None
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        said = json.dumps({**settings, "line": theirs.fileno()})
        try:
            self._process = spawned([*words, said], (*given, theirs.fileno()), group.doors if group else [])
        except OSError as error:
            self.close()
            raise SandboxError(f"A room cannot be opened: {error}.", "Run `cascade doctor`.") from None
        finally:
            theirs.close()
            for descriptor in given:
                os.close(descriptor)
        try:
            self._hear(START_S)
        except SandboxError as error:
            why = self._complaint()
            self.close()
            raise SandboxError(f"A room cannot be opened: {why or error.what}", "Run `cascade doctor`.") from None
        if self._process.stderr:
            self._process.stderr.close()

    def write(self, path: str, data: bytes, executable: bool = False) -> None:
        """See `Room.write`."""
        self._order({"do": "write", "path": path, "executable": executable}, [_memory(data)])
        said = self._hear(START_S)
        if "failed" in said:
            raise SandboxError(f"A room does not take {path}: {said['failed']}.", "Choose a path below /tmp, or less.")

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
        """See `Room.run`."""
        time_s = self.limits.time_s if time_s is None else time_s
        if self._line.fileno() < 0:
            raise SandboxError("A room takes no orders: it is closed.", "Open another.")
        kills = self._group.kills if self._group else 0
        if self._group:
            self._group.forget_peak()
        order = {"do": "run", "command": list(command), "time_s": time_s, "folder": folder, "keep": keep}
        outputs = Outputs(self.limits.output_kib * 1024)
        texts: tuple[bytes, bytes] | None = None
        try:
            given = [_memory(stdin), outputs.stdout, outputs.stderr, *([os.dup(line.fileno())] if line else [])]
            self._order({**order, "variables": dict(variables or {})}, given)
            began = time.monotonic()
            if outputs.read(began + time_s + GRACE_S, self._line.fileno(), self._stop):
                said = self._last_words(time.monotonic() - began)
            else:
                said = _ended("timeout", time.monotonic() - began)
                self.close()
            texts = outputs.close()
            return self._outcome(said, outputs.too_much, *texts, kills)
        finally:
            if texts is None:
                outputs.close()

    def close(self) -> None:
        """See `Room.close`."""
        self._line.close()
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.kill()  # its child, the first process, ends with it, and everything inside with that
            if process.stderr:
                process.stderr.close()
            process.wait()
        if self._group:
            self._group.remove()

    def __enter__(self) -> ProcessRoom:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _order(self, order: Mapping[str, Any], given: Sequence[int]) -> None:
        """Sends an order with descriptors, which are closed here whatever happens."""
        try:
            said = json.dumps(order).encode()
            if len(said) > ORDER_BYTES:
                raise SandboxError(f"A command has {len(said)} bytes.", "Write what is long to a file, or to stdin.")
            socket.send_fds(self._line, [said], given)
        except (OSError, ValueError) as error:
            raise SandboxError(f"A room takes no orders: {error}.", "Open another.") from None
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _hear(self, seconds: float) -> dict[str, Any]:
        """The next message of the first process. Raises `SandboxError` when none comes."""
        if select.select([self._line], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                if said := self._line.recv(1 << 16):
                    return json.loads(said)
            raise SandboxError("A room ended by itself.", "Open another.")
        raise SandboxError(f"A room did not answer within {seconds:g} s.", "Open another.")

    def _stop(self) -> None:
        """Has the program ended that is running."""
        with contextlib.suppress(OSError):
            self._line.send(b"!")

    def _last_words(self, wall_s: float) -> dict[str, Any]:
        """How a program ended. A room without memory may end as a whole. Raises `SandboxError`."""
        try:
            return self._hear(0)
        except SandboxError:
            if self._group and self._group.kills:
                return _ended("memory", wall_s)
            raise

    def _outcome(self, said: Mapping[str, Any], too_much: bool, out: bytes, err: bytes, kills: int) -> Outcome:
        if "failed" in said:
            raise SandboxError(f"A room cannot start a program: {said['failed']}.", "Open another.")
        peak, starving = 0.0, False
        if self._group and self._line.fileno() >= 0:
            peak, starving = self._group.peak_memory_mib, self._group.kills > kills
        status = "memory" if starving else status_of(said["code"], said["ended_by"], too_much, err)
        return Outcome(status, said["code"], out, err, said["wall_s"], said["cpu_s"], peak, said["starved"])

    def _complaint(self) -> str:
        """What bubblewrap has to say about its failure."""
        process = self._process
        if process is None or process.stderr is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()
        return process.stderr.read(4000).decode(errors="replace").strip()


def _ended(by: str, wall_s: float) -> dict[str, Any]:
    """What the first process would have said, had it been able to."""
    return {"code": None, "ended_by": by, "wall_s": wall_s, "cpu_s": 0.0, "starved": False}


def _memory(data: bytes) -> int:
    """A descriptor of a file in memory that holds the data, at its start."""
    descriptor = os.memfd_create("given", os.MFD_CLOEXEC)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
