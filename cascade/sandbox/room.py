"""The outer end of a room: opens it, gives orders to its first process, reads what programs write, up to a limit."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import time
import weakref
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
STOP, LATE = b"!", b"?"  # what the first process is told while a program runs: it wrote too much; its time is up
_open: weakref.WeakSet[ProcessRoom] = weakref.WeakSet()


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
        self._hurried = False
        self._orders = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._down: dict[str, Any] | None = None  # how a program brought the whole room down; there are no others then
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _open.add(self)
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
        self._own = group.members() if group else set[int]()

    def write(self, path: str, data: bytes, executable: bool = False) -> None:
        """See `Room.write`."""
        if self._down:
            return
        if not self._order({"do": "write", "path": path, "executable": executable}, [_memory(data)]):
            return
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
        if self._down:
            return self._outcome({**self._down, "wall_s": 0.0}, False, b"", b"", 0)
        if self._line.fileno() < 0:
            raise _closed()
        kills = self._group.kills if self._group else 0
        if self._group:
            self._group.forget_peak()
        if self._group and self._hurried:
            self._group.slow_down()
            self._hurried = False
        order = {"do": "run", "command": list(command), "time_s": time_s, "folder": folder, "keep": keep}
        outputs = Outputs(self.limits.output_kib * 1024)
        texts: tuple[bytes, bytes] | None = None
        try:
            given = [_memory(stdin), outputs.stdout, outputs.stderr, *([os.dup(line.fileno())] if line else [])]
            began = time.monotonic()
            if not self._order({**order, "variables": dict(variables or {}), "sent": began}, given):
                said = self._last_words(0.0)
            elif outputs.read(began + time_s, self._line.fileno(), self._stop) or self._hurry(outputs):
                said = self._last_words(time.monotonic() - began)
            else:
                said = self._brought_down("timeout", time.monotonic() - began)
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

    def _order(self, order: Mapping[str, Any], given: Sequence[int]) -> bool:
        """Sends an order with descriptors, which are closed here whatever happens; False where nobody is there."""
        try:
            said = json.dumps(order).encode()
            if len(said) > ORDER_BYTES:
                raise SandboxError(f"A command has {len(said)} bytes.", "Write what is long to a file, or to stdin.")
            socket.send_fds(self._line, [said], given)
            self._orders += 1
            return True
        except (BrokenPipeError, ConnectionError):
            if self._orders == 0:  # no program has run that could have done it
                raise _closed() from None
            return False
        except (OSError, ValueError) as error:
            raise SandboxError(f"A room takes no orders: {error}.", "Open another.") from None
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _hear(self, seconds: float) -> dict[str, Any]:
        """The next message of the first process. Raises `SandboxError` when none comes."""
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        if poll.poll(1000 * seconds):
            with contextlib.suppress(OSError):
                if said := self._line.recv(1 << 16):
                    return json.loads(said)
            raise SandboxError("A room ended by itself.", "Open another.")
        raise SandboxError(f"A room did not answer within {seconds:g} s.", "Open another.")

    def _hurry(self, outputs: Outputs) -> bool:
        """Ends a program at its time limit from outside: it may leave the first process no core to do so in time."""
        with contextlib.suppress(OSError):
            self._line.send(LATE)
        if self._group:
            self._group.end_all_but(self._own)
            self._hurried = True
        return outputs.read(time.monotonic() + GRACE_S, self._line.fileno(), self._stop)

    def _stop(self) -> None:
        """Has the program ended that is running."""
        with contextlib.suppress(OSError):
            self._line.send(STOP)

    def _last_words(self, wall_s: float) -> dict[str, Any]:
        """How a program ended. Where the first process says nothing any more, a program has ended it."""
        try:
            return self._hear(0)
        except SandboxError:
            return self._brought_down("memory" if self._group and self._group.kills else "room", wall_s)

    def _brought_down(self, by: str, wall_s: float) -> dict[str, Any]:
        """What the first process would have said, had it been able to. The room is closed, and runs nothing more."""
        self._down = {"code": None, "ended_by": by, "wall_s": wall_s, "cpu_s": 0.0, "starved": False}
        self._down["peak_memory_mib"] = self._group.peak_memory_mib if self._group else 0.0
        self.close()
        return self._down

    def _outcome(self, said: Mapping[str, Any], too_much: bool, out: bytes, err: bytes, kills: int) -> Outcome:
        if "failed" in said:
            raise SandboxError(f"A room cannot start a program: {said['failed']}.", "Open another.")
        peak, starving = said.get("peak_memory_mib", 0.0), False
        if self._group and not self._down:
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


def _leave_to_parent() -> None:
    """In a fork: lets go of rooms, which end when their owner does, and not when the last of its forks does."""
    for room in list(_open):
        room._line.close()
        room._process = room._group = None
    _open.clear()


def _closed() -> SandboxError:
    return SandboxError("A room takes no orders: it is closed.", "Open another.")


def _memory(data: bytes) -> int:
    """A descriptor of a file in memory that holds the data, at its start, and will never hold anything else."""
    descriptor = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(
        descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    return descriptor


os.register_at_fork(after_in_child=_leave_to_parent)
