"""The processes of a run watch each other, so that a lost node is an error that names it, and not a silence.

A collective only notices a peer that is gone when its own long deadline has passed, and does not say which one it was.
Here every process listens on a port. One process a node tries every few seconds to connect to every other node: the
kernel answers for a process that is busy, and nobody answers for one that has ended or whose link is down.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cascade import parallel
from cascade.config import LaunchConfig
from cascade.errors import CascadeError, EngineError
from cascade.launching.end_agent import end_agent_later
from cascade.launching.failures import Failure, failures_folder, first_failure, record
from cascade.meeting import Place

PROBE_S = 3.0  # to connect to a peer
SETTLE_S = 2.0  # after an error, for the one who failed first to have said so
LOST_EXIT = 1
FIX = "The run goes on where it was when it is started again."


@contextmanager
def watched_peers(launch: LaunchConfig, run_dir: str) -> Iterator[None]:
    """Inside of it a lost node ends this process within `launch.peer_timeout_s`, with an error that names it.

    An error on any rank is recorded in the run folder, and says on the others who failed first. Collective.
    """
    if parallel.world_size() == 1:
        yield
        return
    start = parallel.broadcast(f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    watch = Watch(launch, failures_folder(run_dir) / start)
    try:
        parallel.everywhere(watch.reach_all)
        watch.begin()
        yield
        parallel.barrier()  # nobody stops to listen while others still watch
    except Exception as error:
        raise watch.explained(error) from error
    finally:
        watch.close()


class Watch:
    """One process's listener, and its look-out for other nodes."""

    def __init__(self, launch: LaunchConfig, folder: Path) -> None:
        self.launch = launch
        self.folder = folder
        self.me = parallel.places()[parallel.rank()]
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.me.address else socket.AF_INET)
        self._socket.bind(("", 0))
        self._socket.listen(1024)
        ports = parallel.gather(self._socket.getsockname()[1])
        self._peers = [(place, port) for place, port in zip(parallel.places(), ports, strict=True)]
        self._watched = [
            (place, port) for place, port in self._peers if place.local_rank == 0 and place.node != self.me.node
        ]

    def begin(self) -> None:
        """Answers from now on, and on a node's first process watches the others."""
        threading.Thread(target=self._answer, name="peers-listen", daemon=True).start()
        if self.me.local_rank == 0 and self._watched:
            threading.Thread(target=self._look_out, name="peers-watch", daemon=True).start()

    def close(self) -> None:
        """Watches and answers no more."""
        self._ended.set()
        self._socket.close()

    def reach_all(self) -> None:
        """Raises `EngineError` where the port of another node cannot be reached at all."""
        until = time.monotonic() + self.launch.peer_timeout_s
        for place, port in self._watched if self.me.local_rank == 0 else []:
            while not _answers(place, port):
                if time.monotonic() > until:
                    raise EngineError(
                        f"{_upper(self.me)} cannot connect to port {port} of {place} ({place.address}).",
                        "Open all ports between the nodes; `cascade doctor --cluster` shows which are closed.",
                    )
                time.sleep(0.2)

    def explained(self, error: Exception) -> Exception:
        """The error as this rank reports it, after it was recorded: with its rank, or with who failed before."""
        consequence = not isinstance(error, CascadeError) and _is_of_a_collective(error)
        said = f"{type(error).__name__}: {str(error).strip()}"
        record(self.folder, Failure(self.me.rank, self.me.node, time.time(), said, consequence))
        if isinstance(error, CascadeError):
            return type(error)(f"{_upper(self.me)}: {error.what}", error.fix)
        if not consequence:
            print(f"cascade: {self.me} failed: {said}", file=sys.stderr, flush=True)
            return error
        time.sleep(SETTLE_S)
        return EngineError(f"{_upper(self.me)} lost the others: {self._who()} ({said.splitlines()[0]})", FIX)

    def _who(self) -> str:
        """Who failed first, or who is gone."""
        first = first_failure(self.folder)
        if first and not first.consequence:
            return f"the first error was of {first}."
        gone = [f"{place} ({place.address})" for place, port in self._peers if not _answers(place, port)]
        if gone:
            return f"{', '.join(gone)} {'does' if len(gone) == 1 else 'do'} not answer."
        return f"all answer, but one was not ready within {self.launch.collective_timeout_s:.0f} s."

    def _answer(self) -> None:
        while not self._ended.is_set():
            try:
                self._socket.accept()[0].close()
            except OSError:
                return  # closed

    def _look_out(self) -> None:
        patience = self.launch.peer_timeout_s
        seen = dict.fromkeys((place.rank for place, _ in self._watched), time.monotonic())
        while not self._ended.wait(min(5.0, patience / 4)):
            for place, port in self._watched:
                if _answers(place, port):
                    seen[place.rank] = time.monotonic()
                elif time.monotonic() - seen[place.rank] > patience and not self._ended.is_set():
                    self._end(place, time.monotonic() - seen[place.rank])

    def _end(self, lost: Place, silent_s: float) -> None:
        """Ends this process: its main thread may be waiting in a collective, where no exception reaches it."""
        first = first_failure(self.folder)
        why = f" Before that: {first}." if first and not first.consequence else ""
        said = f"{lost} ({lost.address}) is lost: it has not answered for {silent_s:.0f} s.{why}"
        record(self.folder, Failure(self.me.rank, self.me.node, time.time(), said, consequence=True))
        print(f"cascade: {_upper(self.me)}: {said} {FIX}", file=sys.stderr, flush=True)
        end_agent_later()
        os._exit(LOST_EXIT)


def _answers(place: Place, port: int) -> bool:
    try:
        with socket.create_connection((place.address, port), PROBE_S):
            return True
    except OSError:
        return False


def _is_of_a_collective(error: BaseException) -> bool:
    """Whether the process group raised it: NCCL has types of its own, gloo says so in a RuntimeError."""
    import torch.distributed as dist

    words: Sequence[str] = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _upper(place: Place) -> str:
    return f"R{str(place)[1:]}"
