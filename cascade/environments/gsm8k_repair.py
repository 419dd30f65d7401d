"""swe: programs for grade-school word problems with one wrong token, to be repaired, and judged by running them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.environments.gsm8k_program import Gsm8kProgram, Steps, program_of, value_of
from cascade.types import Message, Row

INSTRUCTION = "One line of this program is wrong. Write the whole program, repaired. Begin with ```python."
_TOKEN = re.compile(r"[0-9.]+|[-+*/]")
TRIES = 50


@dataclass(frozen=True, kw_only=True)
class Gsm8kRepair(Gsm8kProgram):
    """Rows of GSM8K: the problem, and its gold program with one token changed so that it prints another number.

    Which token and how follows from the row alone, so the rows are the same for every seed.
    """

    name: str = "gsm8k_repair"
    domain: str = "swe"

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = super().fields(record)
        return {**found, "broken": list(broken(found["steps"], found["question"]))}

    def ask(self, row: Row) -> list[Message]:
        """The problem, and the program to repair."""
        program = f"```python\n{program_of(row.data['broken'])}\n```"
        return [{"role": "user", "content": f"{row.data['question']}\n\n{program}\n\n{INSTRUCTION}"}]


def broken(steps: Steps, seed: str) -> Steps:
    """The steps with one number or sign exchanged, so that they come to another number."""
    rng, right = random.Random(seed), value_of(steps)
    for _ in range(TRIES):
        line = rng.randrange(len(steps))
        tokens = list(_TOKEN.finditer(steps[line]))
        if not tokens:  # another result as it is
            continue
        found = rng.choice(tokens)
        other = rng.choice("+-*/") if found[0] in "+-*/" else str(rng.randint(2, 12))
        changed = steps[line][: found.start()] + other + steps[line][found.end() :]
        wrong = [*steps[:line], changed, *steps[line + 1 :]]
        if value_of(wrong) not in (None, right):
            return wrong
    return [*steps[:-1], f"({steps[-1]})+1"]
