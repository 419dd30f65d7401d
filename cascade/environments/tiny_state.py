"""tool_use: cells to be changed with tools, judged by what they hold then, e.g. `a3 b7 c1: +2 low, swap a c`.

One right answer is `{"add":{"c":2},"swap":"ac"}`, another `{"set":{"c":3}}`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.json_answer import read_object
from cascade.environments.procedural import ProceduralEnvironment, Task, at_least
from cascade.types import Row, Score

CELLS = "abc"
KINDS = ("add", "set", "swap", "low", "high", "like")
LARGEST = 10**6  # a cell that is set beyond this is no use of the tool


@dataclass(frozen=True, kw_only=True)
class ToolState(ProceduralEnvironment):
    """A state of three cells and one or two steps. Any calls that leave the right state are right.

    Tools are the keys of one JSON object, carried out in its order: `set` and `add` take cells and whole numbers,
    `swap` takes two cells. `low` and `high` in a step are the cell with the smallest and largest number at that time,
    and `b like a` gives b the number of a.
    """

    domain: ClassVar[str] = "tool_use"
    name: str = "tool_state"
    max_value: int = 9
    max_steps: int = 2

    def __post_init__(self) -> None:
        at_least("max_value", self.max_value, 2, 99)
        at_least("max_steps", self.max_steps, 1, 2)

    def draw(self, rng: random.Random) -> Task:
        """A task whose state changes. Steps of the same tool are one call, and no cell is changed by it twice."""
        while True:
            start = dict(zip(CELLS, rng.sample(range(self.max_value + 1), len(CELLS)), strict=True))
            state, steps, calls = start, [], {}
            for _ in range(rng.randint(1, self.max_steps)):
                said, tool, value = self._step(rng, state)
                state = carried_out({tool: value}, state) or state
                steps.append(said)
                calls[tool] = {**calls[tool], **value} if isinstance(calls.get(tool), dict) else value
            question = f"{' '.join(f'{cell}{number}' for cell, number in start.items())}: {', '.join(steps)}"
            answer = json.dumps(calls, separators=(",", ":"))
            if state != start and carried_out(calls, start) == state and calls.keys() != {"set", "add"}:
                return Task(question, answer)

    def score(self, row: Row, answer: str) -> Score:
        """1 for the right state; `parsed` and `valid` tell whether the answer is JSON and its calls can be made."""
        start = start_of(row.data["question"])
        calls = read_object(answer)
        left = carried_out(calls, start) if calls is not None else None
        correct = float(left is not None and left == carried_out(json.loads(row.data["answer"]), start))
        return Score(
            correct, {"parsed": float(calls is not None), "valid": float(left is not None), "correct": correct}
        )

    def _step(self, rng: random.Random, state: Mapping[str, int]) -> tuple[str, str, Any]:
        """How a step is said, its tool, and what the tool takes."""
        kind, number = rng.choice(KINDS), rng.randint(1, self.max_value)
        one, other = rng.sample(CELLS, 2)
        if kind == "swap":
            return f"swap {one} {other}", "swap", one + other
        if kind == "set":
            return f"{one}={number}", "set", {one: number}
        if kind == "like":
            return f"{one} like {other}", "set", {one: state[other]}
        extreme = {"low": min(state.values()), "high": max(state.values())}.get(kind)
        extremes = [cell for cell, value in state.items() if value == extreme]
        if len(extremes) == 1:
            return f"+{number} {kind}", "add", {extremes[0]: number}
        return f"+{number} {one}", "add", {one: number}


def start_of(question: str) -> dict[str, int]:
    """`a3 b7 c1: swap a c` -> `{"a": 3, "b": 7, "c": 1}`."""
    return {cell[0]: int(cell[1:]) for cell in question.partition(":")[0].split(" ")}


def carried_out(calls: Mapping[str, Any], start: Mapping[str, int]) -> dict[str, int] | None:
    """The state that calls leave; None when one of them is no use of a tool."""
    state = dict(start)
    for tool, value in calls.items():
        if tool == "swap" and isinstance(value, str) and len(value) == 2 and set(value) <= state.keys():
            state[value[0]], state[value[1]] = state[value[1]], state[value[0]]
        elif tool in ("set", "add") and isinstance(value, dict) and _numbers(value, state):
            state.update({cell: number + state[cell] * (tool == "add") for cell, number in value.items()})
        else:
            return None
    return state


def _numbers(value: Mapping[str, Any], state: Mapping[str, int]) -> bool:
    return value.keys() <= state.keys() and all(type(n) is int and abs(n) <= LARGEST for n in value.values())
