"""structured_output: fields of a record as JSON, e.g. `age,name: yes ann 34` -> `{"age":34,"name":"ann"}`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.json_answer import read_object, same_values
from cascade.environments.procedural import ProceduralEnvironment, Task
from cascade.types import Row, Score

NAMES = (
    *("ada", "amy", "ann", "ben", "bob", "dan", "eli", "eva", "gus", "ian", "ida", "jan"),
    *("joe", "kai", "kim", "leo", "liv", "max", "mia", "ned", "pia", "ray", "sam", "tim"),
)


@dataclass(frozen=True, kw_only=True)
class RecordFields(ProceduralEnvironment):
    """Two of the fields name (string), age (integer) and ok (boolean), told apart in the record by their looks alone.

    An answer is right with exactly the asked keys, each with a value of the right type; their order does not matter.
    """

    domain: ClassVar[str] = "structured_output"
    name: str = "record_fields"

    def draw(self, rng: random.Random) -> Task:
        record: dict[str, Any] = {"name": rng.choice(NAMES), "age": rng.randint(10, 99), "ok": rng.random() < 0.5}
        shown = {"name": record["name"], "age": str(record["age"]), "ok": "yes" if record["ok"] else "no"}
        order, asked = rng.sample(sorted(record), 3), rng.sample(sorted(record), 2)
        question = f"{','.join(asked)}: {' '.join(shown[key] for key in order)}"
        return Task(question, json.dumps({key: record[key] for key in asked}, separators=(",", ":")))

    def score(self, row: Row, answer: str) -> Score:
        """1 for the object; `parsed` and `keys` tell how far a wrong answer got."""
        expected, found = json.loads(row.data["answer"]), read_object(answer)
        correct = float(same_values(found, expected))
        right_keys = float(found is not None and found.keys() == expected.keys())
        return Score(correct, {"parsed": float(found is not None), "keys": right_keys, "correct": correct})
