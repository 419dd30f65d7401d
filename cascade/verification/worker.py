"""A worker process of the verifier pool: `python -m cascade.verification.worker COMMANDS RESULTS PARENT MEMORY`.

Two processes in one: the nursery imports and builds environments once, and forks the worker proper, which scores. When
that one is killed at a deadline, the nursery ends whatever it left behind and forks another within milliseconds.
Neither reads or writes anything but the two descriptors it was given.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from cascade.config import EnvironmentConfig
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environment
from cascade.ports import Environment
from cascade.processes import adopt_orphans, end_with_parent
from cascade.sandbox.cgroups import remove_of
from cascade.types import Attempt, Row, Verdict
from cascade.verification.fair_queue import CHUNK_S
from cascade.verification.frames import read_frame, write_line
from cascade.verification.outcomes import judged, plain, shortened, too_much_memory

LONGEST_S = 2 * CHUNK_S  # of a chunk, which should take half of it


def main() -> None:
    """Builds environments and forks workers as it is told, until the stream of commands ends."""
    commands, results, parent, memory = (int(word) for word in sys.argv[1:])
    end_with_parent(parent)
    adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    environments: dict[str, Environment] = {}
    write_line(results, {"up": os.getpid()})
    _silence()
    while (command := read_frame(commands)) is not None:
        if command[0] == "fork":
            write_line(results, {"ended": _ended(_forked(environments, commands, results, memory))})
        else:
            write_line(results, {"prepared": _prepared(environments, *command[1:])})


def _silence() -> None:
    """What environments print goes nowhere: a pipe that nobody empties would hold them up."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _prepared(
    environments: dict[str, Environment], name: str, config: dict[str, Any], seed: int, row: tuple[str, str, Any] | None
) -> str:
    """Builds an environment, and imports what it imports late by scoring a gold answer. Returns what was raised."""
    try:
        environments[name] = environment = build_environment(name, EnvironmentConfig(**config), seed)
    except Exception:  # noqa: BLE001  a class of the user's may raise anything
        return shortened(traceback.format_exc())
    if row is not None:
        with suppress(Exception):  # a row may have no gold answer, and a verdict will say what is wrong with it
            known = Row(row[0], row[1], name, row[2])
            judged(environment, known, [attempt_at([environment.gold(known)])])
    return ""


def _forked(environments: dict[str, Environment], commands: int, results: int, memory: int) -> int:
    gc.collect()
    gc.freeze()  # else the collector would touch, and so copy, every page of what was imported
    nursery = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        end_with_parent(nursery)
        os.setpgid(0, 0)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))  # rooms may have more: they have limits of their own
        _score(environments, commands, results)
        os._exit(0)
    except BaseException:  # noqa: BLE001  told to the pool, and the process has no other way out
        write_line(results, {"raised": shortened(traceback.format_exc())})
    finally:
        os._exit(1)


def _ended(child: int) -> int:
    """Waits for the worker, ends every process it left behind, and returns its exit code."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    mine = Path("/proc/self/task") / str(os.getpid()) / "children"
    with suppress(ChildProcessError, FileNotFoundError):
        while orphans := mine.read_text().split():  # not what other threads of the nursery started: rooms it keeps
            for orphan in orphans:
                os.kill(int(orphan), signal.SIGKILL)
                os.waitpid(int(orphan), 0)
    remove_of(child)  # the control groups of rooms that were open
    return code


def _score(environments: dict[str, Environment], commands: int, results: int) -> None:
    """Scores chunk after chunk. Every result is sent at once, so that a missing one says which answer holds it up.

    What is left of a chunk that has taken too long goes back: others may be waiting.
    """
    me = os.getpid()
    write_line(results, {"born": me})
    while (command := read_frame(commands)) and command[0] == "score":
        _, name, rows, items = command
        known = [Row(key, domain, name, data) for key, domain, data in rows]
        write_line(results, {"began": time.process_time()})
        began = time.monotonic()
        for number, (row, attempts) in enumerate(items):
            verdicts = _verdicts(environments[name], known[row], attempts)
            if os.getpid() != me:  # an environment forked, and this is the other one
                os._exit(0)
            write_line(results, [number, time.process_time(), [plain(verdict) for verdict in verdicts]])
            if number + 1 < len(items) and time.monotonic() - began > LONGEST_S:
                write_line(results, {"paused": number + 1})
                break


def _verdicts(environment: Environment, row: Row, attempts: list[Any]) -> list[Verdict]:
    try:
        return judged(environment, row, [Attempt(*attempt) for attempt in attempts])
    except MemoryError:  # while it was being told
        return [too_much_memory(0.0)] * len(attempts)
    except BaseException as error:  # noqa: BLE001  SystemExit and its like end no worker
        why = shortened(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return [Verdict(None, "data", why)] * len(attempts)


if __name__ == "__main__":
    main()
