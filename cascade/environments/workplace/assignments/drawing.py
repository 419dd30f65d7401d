"""Assignments of all kinds, drawn as records of the form that people have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cascade.environments.workplace.assignments import figures, mail, meetings, projects, sales
from cascade.environments.workplace.assignments.assignment import TODAY, Assignment, Draw
from cascade.environments.workplace.generated_office import generated_office
from cascade.environments.workplace.toolbox import TOOLS
from cascade.errors import DataError

DRAWS: tuple[Draw, ...] = (*mail.DRAWS, *meetings.DRAWS, *figures.DRAWS, *projects.DRAWS, *sales.DRAWS)
SYSTEM = (
    f"You work in an office with the tools you are given. Today is {TODAY:%A}, {TODAY.date()}, and it is 23:59. Look "
    "up what you do not know, do exactly what is asked and nothing else, and then say in a sentence what you have done."
)


def generated_records(count: int) -> Sequence[dict[str, Any]]:
    """`count` assignments with different requests, every kind as often; the first n are the same for every count.

    Raises `DataError` for more than there are.
    """
    rng, office = random.Random("assignments"), generated_office()
    found: dict[str, dict[str, Any]] = {}
    for attempt in range(50 * count + 1000):
        if len(found) == count:
            break
        kind = DRAWS[attempt % len(DRAWS)]
        drawn = kind(rng, office)
        if drawn is not None:
            found.setdefault(drawn.request, _record(drawn))
    if len(found) < count:
        raise DataError(f"There are only {len(found)} of {count} assignments.", "Lower generated_rows.")
    return list(found.values())


def _record(drawn: Assignment) -> dict[str, Any]:
    changes = [made for turn in drawn.turns for made in turn if TOOLS[made["name"]].writes]
    return {
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": drawn.request}],
        "ground_truth": changes,
        "turns": [list(turn) for turn in drawn.turns],
        "closing": drawn.closing,
        "office": "generated",
    }
