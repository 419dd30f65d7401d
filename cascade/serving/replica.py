"""One vLLM server process of ours: its port, log, start and end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cascade.errors import EngineError
from cascade.serving.serve import PARENT

STOP_GRACE_S = 10.0  # between asking a server to end and killing it
ERROR_LINE = re.compile(r"^(?!.*\b(?:INFO|WARNING|DEBUG)\b).*(?:\b\w*(?:Error|Exception)\b: *\S|\berror: *\S)")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Replica:
    """A server process. Start it from a thread that lives as long as it: with the thread's end it is killed."""

    def __init__(self, index: int, environment: dict[str, str], log: Path) -> None:
        self.index = index
        self.port = free_port()  # kept over restarts: others know the server by it
        self.log = log
        self.environment = environment
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._log_start = 0  # bytes of the log before the present start

    def start(self, arguments: Sequence[str], on_end: Callable[[str], None]) -> None:
        """Starts the process; `on_end` is called in the running event loop when it ends, with how it ended."""
        self.kill()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        command = [sys.executable, "-m", "cascade.serving.serve", *arguments]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            log.write(f"== start {self.starts} of replica {self.index}, {when}, port {self.port}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                env={**self.environment, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, which can be killed as one
            )
        self._process, self._ended = process, asyncio.Event()
        self._watch(process, self._ended, on_end)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and not self._ended.is_set()

    async def end(self) -> None:
        """Waits until the process has ended."""
        await self._ended.wait()

    def kill(self) -> None:
        """Kills the process and all that it started."""
        if self._process is not None and not self._ended.is_set():
            _kill_group(self._process.pid)

    async def stop(self) -> None:
        """Asks the process to end, and kills it and all that it started after `STOP_GRACE_S`. Idempotent."""
        if self._process is None:
            return
        if not self._ended.is_set():
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._ended.wait(), STOP_GRACE_S)
            except TimeoutError:
                self.kill()
                await self._ended.wait()

    def first_error(self) -> str:
        """The first line of the present start's log that names an error; else its last line."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in lines if ERROR_LINE.search(line)), lines[-1].strip() if lines else "")

    def failure(self, what: str) -> EngineError:
        """An error of this replica that shows the first one in its log, and where the log is."""
        return EngineError(
            f"vLLM replica {self.index} {what}; its log says: {self.first_error()}", f"Read {self.log}; mend that."
        )

    def _watch(self, process: subprocess.Popen[bytes], ended: asyncio.Event, on_end: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(process.pid)

        def notice() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            _kill_group(process.pid)  # what the server started does not outlive it
            code = process.wait()
            ended.set()
            on_end(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

        loop.add_reader(descriptor, notice)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended
