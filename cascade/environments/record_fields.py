"""structured_output: fields of a record as JSON, e.g. `age,name: yes ann 34` -> `{"age":34,"name":"ann"}`."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass
from typing import Any, ClassVar

from cascade.environments.procedural import ProceduralEnvironment, Task
from cascade.environments.structured_output import grade
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
        """1 for the object, as `structured_output` checks it; `read`: the answer is JSON."""
        found = grade(answer, schema_of(row.data["answer"]))
        return Score(found["valid"], {"read": found["read"], "correct": found["valid"]})


@functools.lru_cache(maxsize=20_000)
def schema_of(record: str) -> str:
    """The JSON schema that this record alone is valid under, e.g. of `{"age":34}`."""
    return json.dumps(
        {"type": "object", "properties": {key: {"const": value} for key, value in json.loads(record).items()}}
    )
