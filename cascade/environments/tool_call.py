"""tool_use: a request turned into a tool call, e.g. `move y=7 x=36` -> `{"move":{"x":36,"y":7}}`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import ClassVar

from cascade.environments.json_answer import read_object, same_values
from cascade.environments.procedural import ProceduralEnvironment, Task, at_least
from cascade.types import Row, Score

TOOLS = {"move": ("x", "y"), "size": ("w", "h"), "play": ("n", "v")}


@dataclass(frozen=True, kw_only=True)
class ToolCall(ProceduralEnvironment):
    """One call with two integer arguments, named in either order. The call is parsed and compared as values."""

    domain: ClassVar[str] = "tool_use"
    name: str = "tool_call"
    max_value: int = 99

    def __post_init__(self) -> None:
        at_least("max_value", self.max_value, 1)

    def draw(self, rng: random.Random) -> Task:
        tool = rng.choice(sorted(TOOLS))
        arguments = {key: rng.randint(0, self.max_value) for key in TOOLS[tool]}
        said = rng.sample(sorted(arguments), len(arguments))
        question = f"{tool} {' '.join(f'{key}={arguments[key]}' for key in said)}"
        return Task(question, json.dumps({tool: arguments}, separators=(",", ":")))

    def score(self, row: Row, answer: str) -> Score:
        """1 for the right tool with exactly the right arguments; `parsed` and `tool` tell how far a wrong one got."""
        expected, call = json.loads(row.data["answer"]), read_object(answer)
        correct = float(same_values(call, expected))
        right_tool = float(call is not None and call.keys() == expected.keys())
        return Score(correct, {"parsed": float(call is not None), "tool": right_tool, "correct": correct})
