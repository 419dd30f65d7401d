"""code: a program for what is described, e.g. `add 3, times 4` -> `(x+3)*4`, judged by running it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task, at_least
from cascade.environments.sandboxed import Sandboxed
from cascade.environments.tiny_programs import Bench, printed, share_right
from cascade.errors import DataError
from cascade.sandbox.limits import Limits
from cascade.types import Row, Score

SIGNS = {"add": "+", "plus": "+", "less": "-", "minus": "-", "times": "*", "by": "*", "rest": "%", "mod": "%"}
BINDS_LOOSELY = "+-"
INPUTS = (-7, -1, 0, 2, 5, 8, 10, 23)
_STEP = re.compile(r"([a-z]+) ([1-9])")

Step = tuple[str, int]  # sign and number


@dataclass(frozen=True, kw_only=True)
class ExpressionProgram(Sandboxed, ProceduralEnvironment):
    """Steps to be carried out on x from left to right; the answer is a Python expression of at most 80 characters.

    Any that gives the same on every hidden input is right. These are whole numbers, some below 0; a program runs on
    all of them, in a sandbox of its own.
    """

    domain: ClassVar[str] = "code"
    name: str = "expression_program"
    train_rows: int = 3000  # of two steps there are 4,624 in all
    min_steps: int = 2
    max_steps: int = 2
    time_limit_s: float = 1.0  # of a program, on all inputs
    memory_mib: int = 64
    deadline_s: float = 60.0  # of a verdict, with the time to open a room

    def __post_init__(self) -> None:
        self.check_back_end()
        at_least("min_steps", self.min_steps, 1)
        at_least("max_steps", self.max_steps, self.min_steps, 4)

    def draw(self, rng: random.Random) -> Task:
        words = [rng.choice(sorted(SIGNS)) for _ in range(rng.randint(self.min_steps, self.max_steps))]
        steps = [(SIGNS[word], rng.randint(2 if SIGNS[word] in "*%" else 1, 9)) for word in words]
        said = ", ".join(f"{word} {number}" for word, (_, number) in zip(words, steps, strict=True))
        program = program_of(steps)
        return Task(said, program, program)

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with `question` and `answer`. Raises `DataError` for any other."""
        data = super().read(record)
        steps_of(data["question"])
        return data

    def score(self, row: Row, answer: str) -> Score:
        """1 where the program is right on every input; `ran`: it ended without an error; `share`: of inputs."""
        steps = steps_of(row.data["question"])
        limits = Limits(time_s=self.time_limit_s, memory_mib=self.memory_mib, disk_mib=1, processes=8, output_kib=16)
        found = printed(answer, Bench(INPUTS, self.sandbox, limits))
        share = share_right(found, [carried_out(steps, x) for x in INPUTS])
        return Score(float(share == 1), {"ran": float(found is not None), "share": share, "correct": float(share == 1)})


def steps_of(question: str) -> list[Step]:
    """`add 3, times 4` -> `[("+", 3), ("*", 4)]`. Raises `DataError` for anything else."""
    found = [_STEP.fullmatch(said) for said in question.split(", ")]
    steps = [(SIGNS[one[1]], int(one[2])) for one in found if one and one[1] in SIGNS]
    if len(steps) != len(found):
        raise DataError(f"`{question:.60}` is no description of a program.", "Write e.g. `add 3, times 4`.")
    return steps


def carried_out(steps: list[Step], x: int) -> int:
    """What the steps make of x."""
    for sign, number in steps:
        x = x + number if sign == "+" else x - number if sign == "-" else x * number if sign == "*" else x % number
    return x


def program_of(steps: list[Step]) -> str:
    """`[("+", 3), ("*", 4)]` -> `(x+3)*4`, with no parentheses that Python does not need."""
    program, loose = "x", False
    for sign, number in steps:
        if loose and sign not in BINDS_LOOSELY:
            program = f"({program})"
        program, loose = f"{program}{sign}{number}", sign in BINDS_LOOSELY
    return program
