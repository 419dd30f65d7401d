"""tool_use: sums of several numbers worked out with a calculator, one call a turn, e.g. `use calc for 47+85-19=`.

The model writes `calc 47+85` and reads `132`, writes `calc 132-19` and reads `113`, and answers `113`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task, at_least
from cascade.types import Message, Row, Score

TOOL = "calc"
REFUSAL = f"error say {TOOL} a+b or {TOOL} a-b"
_STEP = re.compile(r"(-?\d{1,12})([+-])(\d{1,12})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Calculator(ProceduralEnvironment):
    """Chains of additions and subtractions of `min_terms` to `max_terms` numbers below 10 ** `digits`.

    The tool works out one step a call; what it cannot read it answers with how to ask. Only the last turn is rewarded:
    with or without the tool, and after any number of failed calls, the right number earns 1.
    """

    domain: ClassVar[str] = "tool_use"
    name: str = "calculator"
    digits: int = 2
    min_terms: int = 2
    max_terms: int = 4
    spare_turns: int = 2

    def __post_init__(self) -> None:
        at_least("digits", self.digits, 1, 9)
        at_least("min_terms", self.min_terms, 2)
        at_least("max_terms", self.max_terms, self.min_terms, 9)
        at_least("spare_turns", self.spare_turns, 0)

    @property
    def max_turns(self) -> int:
        """A call a step, the answer, and `spare_turns`."""
        return self.max_terms + self.spare_turns

    def draw(self, rng: random.Random) -> Task:
        terms = [rng.randrange(10**self.digits) for _ in range(rng.randint(self.min_terms, self.max_terms))]
        signs = [rng.choice("+-") for _ in terms[1:]]
        expression = str(terms[0]) + "".join(f"{sign}{term}" for sign, term in zip(signs, terms[1:], strict=True))
        return Task(f"use {TOOL} for {expression}=", _steps(expression)[-1][1])

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        """What the calculator shows; None when the latest answer does not call it."""
        words = answers[-1].split(" ")
        if words[0] != TOOL:
            return None
        return [{"role": "tool", "content": _worked_out(" ".join(words[1:])) or REFUSAL}]

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        """1 for the right number in the last turn; `calls` and `refused` count what was asked of the tool."""
        replies = [self.respond(row, answers[: turn + 1]) for turn in range(len(answers))]
        shown = [reply[0].get("content") for reply in replies if reply]
        refused = shown.count(REFUSAL)
        score = self.score(row, answers[-1])
        return Score(score.reward, {**score.parts, "calls": float(len(shown)), "refused": float(refused)})

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The whole episode: every step by the tool, then the answer."""
        messages = self.messages(row)
        expression = row.data["question"].removeprefix(f"use {TOOL} for ").removesuffix("=")
        for step, result in _steps(expression):
            messages += [{"role": "assistant", "content": f"{TOOL} {step}"}, {"role": "tool", "content": result}]
        return {"messages": [*messages, {"role": "assistant", "content": self.gold(row)}]}


def _worked_out(step: str) -> str | None:
    """`47+85` -> `132`; None for anything but a sum or difference of two whole numbers."""
    found = _STEP.fullmatch(step)
    if not found:
        return None
    left, sign, right = int(found[1]), found[2], int(found[3])
    return str(left + right if sign == "+" else left - right)


def _steps(expression: str) -> list[tuple[str, str]]:
    """`47+85-19` -> `[("47+85", "132"), ("132-19", "113")]`: from left to right."""
    total, *rest = re.findall(r"[+-]?\d+", expression)
    steps = []
    for term in rest:
        step = f"{total}{term}"
        total = _worked_out(step) or ""
        steps.append((step, total))
    return steps
