"""tool_use: assignments in an office of five databases, worked on with 27 tools; the final databases are judged."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cascade.environments.row_source import RowEnvironment, content_hash
from cascade.environments.tool_calls import OPEN, Call, call_text, calls_of, xml_text
from cascade.environments.workplace.assignments.drawing import generated_records
from cascade.environments.workplace.generated_office import generated_office
from cascade.environments.workplace.office import Office, read_office
from cascade.environments.workplace.state import State
from cascade.environments.workplace.toolbox import SCHEMAS, TOOLS, carry_out, replay
from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score

GENERATED, FROM_FILES = "generated", "files"  # whose ids a row speaks of
FETCHED = Path(__file__).resolve().parents[3] / "data" / "workplace"
MAX_CALLS = 1000  # in an episode
MAX_SHOWN = 40_000  # characters of one result
NOTHING = "Nothing has to be changed."


@dataclass(frozen=True, kw_only=True)
class Workplace(RowEnvironment):
    """Rows of NeMo-Gym's `workplace_assistant` (NVIDIA's Nemotron-RL-agent-workplace_assistant), or generated ones.

    A row's `ground_truth` is a list of calls. An episode earns 1 when its own calls, carried out one after the other,
    leave every database as the ground truth leaves it, row by row; case counts in status, list and board only. Where
    the ground truth changes nothing, a call must be carried out besides, or the last turn be text.

    Args:
        database: folder of the CSV files that rows from files speak of; None: where `python -m data.workplace` puts
            NVIDIA's. Rows with `"office": "generated"` speak of the generated office whatever it says.
        generated_rows: how many assignments there are, over all splits, where no `train` is named.
        max_turns: turns of the model after which an episode ends.
        form: how gold answers and demonstrations write calls; answers may have either form.
    """

    name: str = "workplace"
    domain: str = "tool_use"
    test_rows: int = 300
    database: str | None = None
    generated_rows: int = 3000
    max_turns: int = 20
    form: Literal["json", "xml"] = "json"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("generated_rows", "max_turns"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}.", "Give a number from 1 on.")

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        truth = [_ground_truth(call) for call in _list_of(record.get("ground_truth"))]
        office = GENERATED if record.get("office") == GENERATED else FROM_FILES
        self._office(office)  # raises where it is not there
        found: dict[str, Any] = {"ground_truth": truth, "office": office}
        if office == GENERATED:  # their demonstration
            found.update({key: record[key] for key in ("turns", "closing") if key in record})
        return found

    def tools(self, row: Row) -> list[dict[str, Any]]:
        """The row's own tools, or all of them."""
        return row.data.get("tools") or SCHEMAS

    def gold(self, row: Row) -> str:
        """The calls of the ground truth in one turn; or, where they change nothing, a sentence."""
        return self._written(row.data["ground_truth"]) if self._changes(row) else NOTHING

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        """What the tools show, a message a call of the latest turn; None when it has no call."""
        calls = calls_of(answers[-1], self.tools(row))
        if not calls:
            return None
        state = State(self._office(row.data["office"]))
        earlier = self._calls(row, answers[:-1])
        if len(earlier) + len(calls) > MAX_CALLS:
            calls = [Call("", {}, f"The episode has more than {MAX_CALLS} calls: nothing was called.")] * len(calls)
        else:
            replay(state, earlier)
        return [{"role": "tool", "content": _shown(carry_out(state, call))} for call in calls]

    def score(self, row: Row, answer: str) -> Score:
        return self.score_episode(row, [answer])

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        """1 for the right databases in the end.

        Parts: every database by name, whether it is right; `answered` whether the last turn is text without a call;
        `calls` and `refused`, how many there were and how many of them did nothing; `turns`; `correct`.
        """
        calls = self._calls(row, answers)
        answered = bool(answers[-1].strip()) and OPEN not in answers[-1]
        parts = {"answered": float(answered), "calls": float(len(calls)), "turns": float(len(answers))}
        if len(calls) > MAX_CALLS:
            return Score(0.0, {**parts, "correct": 0.0})
        state, expected = self._state(row), self._state(row)
        refused = replay(state, calls)
        replay(expected, map(_call, row.data["ground_truth"]))
        equal = state.equal(expected)
        correct = all(equal.values()) and (answered or len(calls) > refused or self._changes(row))
        equal_parts = {name: float(value) for name, value in equal.items()}
        return Score(float(correct), {**equal_parts, **parts, "refused": float(refused), "correct": float(correct)})

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The whole episode: looking up, changing and a closing sentence, with what the tools show in between."""
        messages, answers = self.messages(row), []
        for calls in row.data.get("turns") or [row.data["ground_truth"]]:
            if calls:
                answers.append(self._written(calls))
                shown = self.respond(row, answers) or []
                messages += [{"role": "assistant", "content": answers[-1]}, *shown]
        closing = row.data.get("closing") or ("Done." if self._changes(row) else NOTHING)
        return {"messages": [*messages, {"role": "assistant", "content": closing}], "tools": self.tools(row)}

    @functools.cached_property
    def _pool(self) -> dict[str, Row]:
        """Rows to train on and to cut the other splits from. Generated ones are the same for every seed."""
        if self.train:
            return self._source(self.train, "train")
        found = [self.read(record) for record in generated_records(self.generated_rows)]
        rows = [Row(f"{self.name}/{content_hash(data)}", self.domain, self.name, data) for data in found]
        return {row.id: row for row in rows}

    def _calls(self, row: Row, answers: Sequence[str]) -> list[Call]:
        return [call for answer in answers for call in calls_of(answer, self.tools(row))]

    def _written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        return xml_text(calls) if self.form == "xml" else call_text(calls)

    def _office(self, which: str) -> Office:
        return generated_office() if which == GENERATED else read_office(Path(self.database or FETCHED))

    def _state(self, row: Row) -> State:
        return State(self._office(row.data["office"]))

    def _changes(self, row: Row) -> bool:
        state = self._state(row)
        replay(state, map(_call, row.data["ground_truth"]))
        return not all(state.equal(self._state(row)).values())


def _list_of(truth: Any) -> list[Any]:
    if isinstance(truth, str):
        try:
            truth = json.loads(truth)
        except ValueError as error:
            raise DataError(f"`ground_truth` is not JSON: {error}.", "Give a list of calls.") from None
    if not isinstance(truth, list):
        raise DataError("There is no `ground_truth`.", "Give the list of calls that do what is asked, maybe empty.")
    return truth


def _ground_truth(call: Any) -> dict[str, Any]:
    """A call of the ground truth, with its arguments as JSON values."""
    read = calls_of(call_text([call]))[0]
    if read.problem:
        raise DataError(f"{str(call)[:80]!r} in `ground_truth` is not a call.", "Give `name` and `arguments`.")
    if read.name not in TOOLS:
        raise DataError(f"`ground_truth` calls {read.name[:80]!r}, which is no tool.", "Give the name of a tool.")
    return {"name": read.name, "arguments": dict(read.arguments)}


def _call(call: Mapping[str, Any]) -> Call:
    return Call(call["name"], call["arguments"])


def _shown(content: str) -> str:
    if len(content) <= MAX_SHOWN:
        return content
    return json.dumps({"error": f"The result has {len(content)} characters, too many to show. Ask for less."})
