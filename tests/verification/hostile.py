"""An environment that answers can do anything to: what a verifier pool must survive."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import FailureKind, VerifierFailure
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.types import Attempt, Message, Row, Score, Split

VERY_LONG_S = 600.0


class Weird(BaseException):
    """No `Exception` at all."""


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """The answer says what scoring it does, e.g. `sleep`; anything else scores its own number of characters."""

    name: str = "hostile"
    seed: int = 0
    domain: str = "math"
    deadline_s: float = 0.3
    scratch: str = ""
    fails_to_build: bool = False

    def __post_init__(self) -> None:
        if self.fails_to_build and "cascade.verification.worker" in sys.argv[0].replace("/", "."):
            raise RuntimeError("no such library here")

    def rows(self, split: Split) -> Sequence[Row]:
        raise AssertionError("rows are never loaded in a worker")

    def messages(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": "?"}]

    def gold(self, row: Row) -> str:
        return "gold"

    def score(self, row: Row, answer: str) -> Any:
        action, _, rest = answer.partition(" ")
        found = getattr(self, f"_{action}", None)
        return Score(float(len(answer)), {"length": float(len(answer))}) if found is None else found(rest)

    def _sleep(self, rest: str) -> Score:
        time.sleep(float(rest.split()[0]))
        return Score(1.0)

    def _burn(self, rest: str) -> Score:
        end = time.process_time() + float(rest.split()[0])
        while time.process_time() < end:
            pass
        return Score(1.0)

    def _note(self, rest: str) -> Score:
        """Leaves one character in a file of this worker's, and scores its length like any other answer."""
        time.sleep(float(rest.split()[0]))
        with (Path(self.scratch) / f"noted.{os.getppid()}").open("a") as file:
            file.write("x")
        return Score(float(len(f"note {rest}")))

    def _ended(self, rest: str) -> Score:
        """As an environment says that the program of an answer ended so."""
        return Score(0.0, {rest: 1.0})

    def _room(self, rest: str) -> Score:
        """A program in a sandbox; the marker is in its command line."""
        seconds, _, marker = rest.partition(" ")
        with sandbox("bwrap").open(Limits(time_s=VERY_LONG_S)) as room:
            outcome = room.run(("sh", "-c", f"sleep {seconds}; echo {marker}"))
        return Score(float(len(outcome.stdout)))

    def _regex(self, rest: str) -> None:
        re.match(r"(a+)+$", "a" * 60 + "b")

    def _allocate(self, rest: str) -> None:
        bytearray(10 * 2**30)

    def _exit(self, rest: str) -> None:
        os._exit(3)

    def _exit_once(self, rest: str) -> Score:
        marker = Path(self.scratch) / rest
        if not marker.exists():
            marker.touch()
            os._exit(3)
        return Score(1.0)

    def _segfault(self, rest: str) -> None:
        ctypes.string_at(0)

    def _fork(self, rest: str) -> Score:
        """Both processes return; or the child leaves its session and stays."""
        if os.fork() == 0 and rest:
            os.setsid()
            (Path(self.scratch) / rest).write_text(str(os.getpid()))
            time.sleep(VERY_LONG_S)
        return Score(1.0)

    def _print(self, rest: str) -> Score:
        for _ in range(200):
            print("junk\n[0,0,[]]\n" * 100, flush=True)
            print("junk" * 1000, file=sys.stderr, flush=True)
        return Score(1.0)

    def _raise(self, rest: str) -> None:
        raise {"base": Weird, "exit": SystemExit, "interrupt": KeyboardInterrupt, "memory": MemoryError}.get(
            rest, RuntimeError
        )(rest)

    def _failure(self, rest: str) -> None:
        raise VerifierFailure(FailureKind(rest), "as told")

    def _return(self, rest: str) -> Any:
        return {
            "none": None,
            "text": "1.0",
            "nan": Score(float("nan")),
            "infinite": Score(float("inf")),
            "huge": Score(10**400),
            "words": Score("right"),  # type: ignore[arg-type]
            "parts": Score(1.0, {"a": "b"}),  # type: ignore[dict-item]
            "list": Score(1.0, [1, 2]),  # type: ignore[arg-type]
            "mask": Score(1.0, {}, "yes"),  # type: ignore[arg-type]
            "masked": Score(1.0, {}, masked=True),
        }[rest]


@dataclass(frozen=True, kw_only=True)
class HostileGroups(Hostile):
    """The same, for attempts that are compared: every one is worth its place in the group."""

    def score_group(self, row: Row, attempts: Sequence[Attempt]) -> list[Score]:
        for attempt in attempts:
            self.score(row, attempt.answers[-1])
        return [Score(float(place)) for place in range(len(attempts))]
