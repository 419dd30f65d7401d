"""The pool's end of a worker process: started, prepared, given chunks, killed, brought back."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cascade.verification.frames import Lines, frame, write_within
from cascade.verification.jobs import EnvironmentSpec

START_S = 120.0  # deadline of what is not a verdict: starting, importing, building an environment
SLICE_S = 0.2  # how long to wait before looking whether the process is there at all
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Broken(Exception):
    """The process does not do what it was told to. It has to be started anew."""


class Unbuildable(Exception):
    """It cannot build an environment that this process could; the traceback."""


class WorkerProcess:
    """One nursery with at most one worker. Used by one thread, which must outlive it: the kernel ties it to that."""

    def __init__(self, memory_gib: float) -> None:
        self.memory = int(memory_gib * 2**30)
        self.interrupted = False  # set from another thread: what is waited for is not worth waiting for any more
        self.child = 0  # process id of the worker; 0: there is none
        self._nursery: subprocess.Popen[bytes] | None = None
        self._prepared: set[str] = set()
        self._cold: set[str] = set()  # environments whose preparation broke the nursery: without gold answers then
        self._commands = -1
        self._lines: Lines | None = None
        self._told: list[Any] = []  # what came and was not asked for yet

    def ready(self, spec: EnvironmentSpec, row: tuple[str, str, Any]) -> None:
        """Makes sure of a worker that has the environment. Raises `Broken`, or `Unbuildable`."""
        if self._nursery is None:
            self._start()
        if spec.name not in self._prepared:
            self._retire()
            self._prepare(spec, row)
        if not self.child:
            self._send(frame(("fork",)))
            self.child = self._hear("born")

    def send(self, chunk: bytes) -> float:
        """Gives the worker a `score` frame; returns its CPU seconds when it began. Raises `Broken`."""
        self._send(chunk)
        return self._hear("began")

    def results(self, seconds: float) -> list[Any]:
        """Results that come within `seconds`; `{"ended": code}` is among them when the worker has died."""
        told, self._told = self._told or self._read(seconds), []
        if any(isinstance(message, dict) and "ended" in message for message in told):
            self.child = 0
        return told

    def cpu_s(self) -> float | None:
        """CPU seconds the worker has used; None where the system does not say."""
        try:
            with open(f"/proc/{self.child}/stat", "rb") as file:  # noqa: PTH123  polled
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kills the worker and waits until the nursery has cleaned up behind it. Raises `Broken`."""
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
            self._hear("ended")

    def close(self) -> None:
        """Ends all processes. Idempotent."""
        nursery = self._nursery
        if nursery is None:
            return
        with suppress(Broken):
            self.kill()
        os.close(self._commands)  # the nursery ends with its stream of commands
        with suppress(subprocess.TimeoutExpired):
            nursery.wait(1.0)
        for group in {self.child, nursery.pid} - {0}:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        nursery.kill()
        nursery.wait()
        if self._lines is not None:
            os.close(self._lines.descriptor)
        self._nursery, self._lines, self.child, self._told = None, None, 0, []
        self._prepared = set()

    def _start(self) -> None:
        command_read, self._commands = os.pipe()
        result_read, result_write = os.pipe()
        os.set_blocking(self._commands, False)
        self._lines = Lines(result_read)
        words = [str(word) for word in (command_read, result_write, os.getpid(), self.memory)]
        with tempfile.TemporaryFile() as said:
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-m", "cascade.verification.worker", *words],
                pass_fds=(command_read, result_write),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=_environment(),
                start_new_session=True,
            )
            os.close(command_read)
            os.close(result_write)
            try:
                self._hear("up")
            except Broken as error:
                said.seek(0)
                tail = said.read()[-4000:].decode(errors="replace")
                raise Broken(f"{error}\n{tail}") from None

    def _prepare(self, spec: EnvironmentSpec, row: tuple[str, str, Any]) -> None:
        warm = None if spec.name in self._cold else row
        self._cold.add(spec.name)  # until it is done
        self._send(frame(("prepare", spec.name, dataclasses.asdict(spec.config), spec.seed, warm)))
        raised = self._hear("prepared")
        if raised:
            raise Unbuildable(raised)
        self._cold.discard(spec.name)
        self._prepared.add(spec.name)

    def _retire(self) -> None:
        """Lets an idle worker go."""
        if self.child:
            self._send(frame(("end",)))
            self._hear("ended")

    def _send(self, data: bytes) -> None:
        try:
            write_within(self._commands, data, START_S)
        except OSError as error:
            raise Broken(f"A worker process takes no command: {error}.") from None

    def _hear(self, what: str) -> Any:
        """The next message called `what`; others are dropped, as they are of a worker that is gone."""
        end = time.monotonic() + START_S
        while (left := end - time.monotonic()) > 0:
            if self.interrupted and what != "ended":
                raise Broken("A worker process was interrupted.")
            for number, message in enumerate(told := self.results(min(left, SLICE_S))):
                if isinstance(message, dict) and what in message:
                    self._told = told[number + 1 :]
                    return message[what]
                if isinstance(message, dict) and "raised" in message:
                    raise Broken(f"A worker process cannot work:\n{message['raised']}")
                if isinstance(message, dict) and "ended" in message:
                    raise Broken(f"A worker process ended with code {message['ended']} before it had begun.")
        raise Broken(f"A worker process did not say `{what}` in {START_S:g} s.")

    def _read(self, seconds: float) -> list[Any]:
        if self._lines is None or self._nursery is None:
            raise Broken("A worker process was closed.")
        documents = self._lines.read(seconds)
        if documents is None or (not documents and self._nursery.poll() is not None):
            code = self._nursery.wait()
            raise Broken(f"A worker process ended with code {code}.")
        return documents


def _environment() -> dict[str, str]:
    """Of a worker: one thread, no GPU, and modules found where this process finds them."""
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
