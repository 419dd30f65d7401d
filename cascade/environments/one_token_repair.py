"""swe: a program with one wrong token, e.g. `x<3 or x>8 fails at 5: left above 3` -> `x>3 or x>8`, judged by a run."""

from __future__ import annotations

import functools
import operator
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from cascade.environments.procedural import ProceduralEnvironment, Task
from cascade.environments.sandboxed import Sandboxed
from cascade.environments.tiny_programs import Bench, printed, share_right
from cascade.errors import DataError
from cascade.sandbox.limits import Limits
from cascade.types import Row, Score

INPUTS = tuple(range(10))
NUMBERS = range(1, 9)
COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
WORDS = {"<": "below", ">": "above", "<=": "up to", ">=": "from"}
JOINED = {"and": "both", "or": "either"}
SIDES = ("left", "right")
_PROGRAM = re.compile(r"x(<=?|>=?)([0-9]) (and|or) x(<=?|>=?)([0-9])")


@dataclass(frozen=True)
class Check:
    """A program, e.g. `x>3 and x<8`."""

    clauses: tuple[tuple[str, int], tuple[str, int]]  # how x is compared, and with what
    join: Literal["and", "or"]

    def __str__(self) -> str:
        return f" {self.join} ".join(f"x{sign}{number}" for sign, number in self.clauses)

    def holds(self, x: int) -> bool:
        """What it gives for x."""
        left, right = (COMPARE[sign](x, number) for sign, number in self.clauses)
        return (left and right) if self.join == "and" else (left or right)

    def results(self) -> tuple[bool, ...]:
        """What it gives on every input."""
        return _results(self)


@dataclass(frozen=True, kw_only=True)
class OneTokenRepair(Sandboxed, ProceduralEnvironment):
    """The issue names an input for which a check of two clauses is wrong, and says what one part of it should be.

    The policy writes the whole program anew, and has to keep the rest as it is. Any Python expression of at most
    80 characters that is right on every input is a repair; each runs in a sandbox of its own.
    """

    domain: ClassVar[str] = "swe"
    name: str = "one_token_repair"
    time_limit_s: float = 1.0  # of a program, on all inputs
    memory_mib: int = 64
    deadline_s: float = 60.0  # of a verdict, with the time to open a room

    def __post_init__(self) -> None:
        self.check_back_end()

    def draw(self, rng: random.Random) -> Task:
        """A task of which exactly one repair is one token away and agrees with the issue."""
        while True:
            first, second = ((rng.choice(sorted(COMPARE)), rng.choice(NUMBERS)) for _ in range(2))
            right = Check((first, second), "and" if rng.random() < 0.5 else "or")
            place = rng.choice(("join", 0, 1))
            wrong = rng.choice([check for check in one_token_away(right) if differ_in(check, right) == place])
            said = part_in_words(right, place)
            failing = [x for x in INPUTS if wrong.results()[x] != right.results()[x]]
            if not failing:
                continue
            repairs = [check for check in one_token_away(wrong) if agrees(check, wrong, said)]
            if {check.results() for check in repairs} == {right.results()}:
                return Task(f"{wrong} fails at {rng.choice(failing)}: {said}", str(right), str(right))

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with `question` and `answer`. Raises `DataError` for any other."""
        data = super().read(record)
        check_of(data["answer"])
        return data

    def score(self, row: Row, answer: str) -> Score:
        """1 where the program is right on every input; `ran`: it ended without an error; `share`: of inputs."""
        expected = check_of(row.data["answer"]).results()
        limits = Limits(time_s=self.time_limit_s, memory_mib=self.memory_mib, disk_mib=1, processes=8, output_kib=16)
        found = printed(answer, Bench(INPUTS, self.sandbox, limits))
        share = share_right(found, expected)
        return Score(float(share == 1), {"ran": float(found is not None), "share": share, "correct": float(share == 1)})


def check_of(program: str) -> Check:
    """The inverse of `str`. Raises `DataError` for any other text."""
    found = _PROGRAM.fullmatch(program)
    if not found:
        raise DataError(f"`{program:.60}` is no check of two clauses.", "Write e.g. `x>3 and x<8`.")
    return Check(((found[1], int(found[2])), (found[4], int(found[5]))), "and" if found[3] == "and" else "or")


@functools.cache  # there are 2,048
def _results(check: Check) -> tuple[bool, ...]:
    return tuple(map(check.holds, INPUTS))


@functools.cache
def one_token_away(check: Check) -> Sequence[Check]:
    """Every check that differs from it in one token."""
    others = [replace(check, join="or" if check.join == "and" else "and")]
    for place, (sign, number) in enumerate(check.clauses):
        changed = [(other, number) for other in COMPARE if other != sign]
        changed += [(sign, other) for other in NUMBERS if other != number]
        for clause in changed:
            clauses = (clause, check.clauses[1]) if place == 0 else (check.clauses[0], clause)
            others.append(replace(check, clauses=clauses))
    return others


def differ_in(one: Check, other: Check) -> int | str:
    """Where two checks that are one token apart differ: `join`, or the number of the clause."""
    return "join" if one.join != other.join else int(one.clauses[0] == other.clauses[0])


def part_in_words(check: Check, place: int | str) -> str:
    """What an issue says of a part: `both` and `either` of the join, `left above 3` of the first clause."""
    if place == "join":
        return JOINED[check.join]
    sign, number = check.clauses[int(place)]
    return f"{SIDES[int(place)]} {WORDS[sign]} {number}"


def agrees(repair: Check, wrong: Check, said: str) -> bool:
    """Whether what a repair changes is what the issue asks for."""
    return said == part_in_words(repair, differ_in(repair, wrong))
