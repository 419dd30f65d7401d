"""Preference pairs made by a rule, for tests: the preferred answer holds a `z`, and is the longer one in seven of ten.

One pair in ten is the wrong way round, so that no model can be right about all of them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxy"


def write_pairs(file: Path, count: int, seed: int = 0) -> Path:
    """`count` distinct pairs, as JSON lines."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        liked = "".join(rng.choices(LETTERS, k=rng.randint(4, 8)))
        other = len(liked) + 1 + (rng.choice((-2, -1)) if rng.random() < 0.7 else rng.choice((1, 2)))
        place = rng.randrange(len(liked) + 1)
        row = {"prompt": "".join(rng.choices(LETTERS, k=3))}
        row["chosen"] = f"{liked[:place]}z{liked[place:]}"
        row["rejected"] = "".join(rng.choices(LETTERS, k=other))
        if rng.random() < 0.1:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        rows.setdefault(json.dumps(row), row)
    file.write_text("\n".join(rows))
    return file
