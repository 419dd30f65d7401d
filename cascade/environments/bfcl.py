"""tool_use: the Berkeley Function Calling Leaderboard (Patil et al. 2025), single calls and stateful episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.data.datasets import NumberedRow
from cascade.environments.bfcl_answers import all_match, some_call
from cascade.environments.bfcl_rows import ANY_CALL, NO_CALL, arguments_by_name, row_fields, tool, tools_of
from cascade.environments.bfcl_simulators import Simulators, package, records_of
from cascade.environments.python_calls import python_calls
from cascade.environments.row_source import RowEnvironment
from cascade.environments.tool_calls import Call, call_text, calls_of
from cascade.errors import ConfigError, DataError
from cascade.types import Message, Row, Score

PACKAGED = "bfcl:"  # a source that lies in the package, e.g. `bfcl:multi_turn_base`
LONGEST = 8  # user turns of the longest episode
CLOSING = "Done."
UPDATE = "From now on you can also call these functions:"


@dataclass(frozen=True, kw_only=True)
class Bfcl(RowEnvironment):
    """Rows of `bfcl-eval` by category (`bfcl:multi_turn_base`), or from files in the form that it has them in.

    Rows of files that bring no `ground_truth` get that of their `id` from the package.

    Episodes: the model calls the functions of simulated services until it writes a turn without a call; then the
    user's next turn comes. After every turn of the user the state of the services must equal the one that the gold
    calls lead to, and what the gold calls of that turn returned must have been returned to the model so far.
    Single calls are compared with the possible values of every argument.

    Calls are read as in `tool_calls`, or in the leaderboard's own form `[cd(folder='docs'), ls()]`.

    Args:
        max_steps: turns with calls that the model may take for one turn of the user.
        deadline_s: seconds that scoring an episode may take.

    Raises `ConfigError` where the package is not installed.
    """

    name: str = "bfcl"
    domain: str = "tool_use"
    test: str | None = "bfcl:multi_turn_base"
    max_steps: int = 20
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise ConfigError(f"max_steps is {self.max_steps}.", "Allow at least one call.")
        package()

    @property
    def max_turns(self) -> int:
        """Every step of the longest episode, and the turn without a call that ends each turn of the user."""
        return (self.max_steps + 1) * LONGEST

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return row_fields(record)

    def ask(self, row: Row) -> list[Message]:
        """The first turn of the user, which is the only one outside of episodes."""
        return list(row.data["question"][0])

    def tools(self, row: Row) -> list[dict[str, Any]]:
        """The functions as JSON schemas; without those that the row holds back or brings later."""
        if "function" in row.data:
            return [tool(function) for function in row.data["function"]]
        held_back = {*row.data["excluded"], *(name for names in row.data["missed"].values() for name in names)}
        return tools_of(tuple(row.data["classes"]), frozenset(held_back))

    def respond(self, row: Row, answers: Sequence[str]) -> list[Message] | None:
        """What the called functions return, one message a call; the user's next turn after a turn without a call."""
        if "classes" not in row.data:
            return None
        course = self._course(row, answers)
        if len(course[-1]) > self.max_steps:
            return None
        if course[-1]:
            return [{"role": "tool", "content": result} for result in _last_results(row, course)]
        turn = len(course) - 1
        return _user_turn(row, turn) if turn < len(row.data["question"]) else None

    def gold(self, row: Row) -> str:
        """A right call; of an episode the model's turns as a JSON list. Raises `DataError` where a row has none."""
        if "classes" in row.data:
            return json.dumps(_gold_turns(row))
        if row.data["category"] in NO_CALL:
            return "None of the functions can do that."
        if row.data["category"] in ANY_CALL:
            return call_text([{"name": row.data["function"][0]["name"], "arguments": {}}])
        calls = [some_call(expected, row.data["function"]) for expected in row.data["ground_truth"]]
        if not all(calls):
            raise DataError(f"{row.data['id']} has possible answers that no call matches.", "Leave it out.")
        return call_text([call for call in calls if call])

    def demonstration(self, row: Row) -> Mapping[str, Any]:
        """The whole episode: the gold calls of every turn of the user, what they return, and a closing turn."""
        messages, answers = self.messages(row), []
        for turn in json.loads(self.gold(row)) if "classes" in row.data else [self.gold(row)]:
            answers.append(turn)
            messages += [{"role": "assistant", "content": turn}, *(self.respond(row, answers) or ())]
        return {"messages": messages, "tools": self.tools(row)}

    def score(self, row: Row, answer: str) -> Score:
        """The reward of one turn alone, or of an episode that is given as `gold` gives it."""
        if "classes" in row.data:
            return self.score_episode(row, _turns_of(answer))
        calls, category = self._calls(row, answer), row.data["category"]
        readable = [(call.name, call.arguments) for call in calls if not call.problem]
        if category in NO_CALL:
            correct = not calls and bool(answer.strip())
        elif category in ANY_CALL:
            correct = bool(readable)
        else:
            unreadable = len(readable) < len(calls)
            correct = not unreadable and all_match(readable, row.data["ground_truth"], row.data["function"])
        return Score(float(correct), {"correct": float(correct), "calls": float(len(calls))})

    def score_episode(self, row: Row, answers: Sequence[str]) -> Score:
        """1 when every turn of the user ended in the gold state with the gold results; 0 from the first that did not.

        Parts: `turns` is the share of the user's turns before that one, `finished` whether the model was there for
        all of them and never took more than `max_steps`.
        """
        if "classes" not in row.data:
            return self.score(row, answers[-1])
        course, wanted = self._course(row, answers), len(row.data["question"])
        finished = (len(course) > wanted or (len(course) == wanted and bool(course[-1]))) and all(
            len(steps) <= self.max_steps for steps in course
        )
        right = _right_turns(row, course[:wanted]) if finished else 0
        reward = float(finished and right == wanted)
        return Score(reward, {"correct": reward, "turns": right / wanted, "finished": float(finished)})

    def _calls(self, row: Row, answer: str) -> list[Call]:
        found = calls_of(answer, self.tools(row))
        if found:
            return found
        return [_named(call.name, call.positional, call.arguments) for call in python_calls(answer) or ()]

    def _course(self, row: Row, answers: Sequence[str]) -> list[list[list[Call]]]:
        """The calls of every step of every turn of the user, the last of which may not have begun."""
        course: list[list[list[Call]]] = [[]]
        for answer in answers:
            calls = self._calls(row, answer)
            if calls:
                course[-1].append(calls)
            else:
                course.append([])
        return course

    def _source(self, source: str, split: Any) -> dict[str, Row]:
        if not source.startswith(PACKAGED):
            return super()._source(source, split)
        records = records_of(source.removeprefix(PACKAGED))
        numbered: list[NumberedRow] = [(identity, dict(record)) for identity, record in records.items()]
        return {row.id: row for row in self.rows_of(numbered, source)}


def _named(name: str, positional: Sequence[Any], arguments: Mapping[str, Any]) -> Call:
    return Call(name, arguments, "Give every argument by its name." if positional else "")


def _user_turn(row: Row, turn: int) -> list[Message]:
    """The user's messages; where the row brings functions with this turn, they are shown in one."""
    names = row.data["missed"].get(str(turn))
    if not names:
        return list(row.data["question"][turn])
    shown = [known["function"] for known in tools_of(tuple(row.data["classes"]), frozenset())]
    content = "\n".join([UPDATE, *(json.dumps(function) for function in shown if function["name"] in names)])
    return [{"role": "user", "content": content}, *row.data["question"][turn]]


def _last_results(row: Row, course: Sequence[Sequence[Sequence[Call]]]) -> list[str]:
    """What the calls of the latest step return, after all the ones before."""
    simulators = _simulators(row)
    results: list[str] = []
    for step in (step for turn in course for step in turn):
        results = [call.problem or simulators.call(call.name, (), call.arguments) for call in step]
    return results


def _right_turns(row: Row, course: Sequence[Sequence[Sequence[Call]]]) -> int:
    """Turns of the user before the first that went wrong. Turns without gold calls are not judged themselves."""
    mine, gold = _simulators(row), _simulators(row)
    returned: list[str] = []  # to the model, not yet claimed by a gold result of the same turn
    for turn, (steps, expected) in enumerate(zip(course, row.data["gold"], strict=True)):
        made = [call for step in steps for call in step if not call.problem]
        returned += [mine.call(call.name, (), call.arguments) for call in made]
        wanted = [gold.call(call["name"], call["positional"], call["arguments"]) for call in expected]
        if wanted and not (made and mine.same_state(gold) and _covers(returned, wanted)):
            return turn
    return len(course)


def _covers(returned: Sequence[str], wanted: Sequence[str]) -> bool:
    left = list(returned)
    for result in wanted:
        if result not in left:
            return False
        left.remove(result)
    return True


def _simulators(row: Row) -> Simulators:
    return Simulators(row.data["classes"], row.data["config"], "long_context" in row.data["category"])


def _gold_turns(row: Row) -> list[str]:
    """Every turn's calls at once and a closing turn. Arguments without a name, which models may not use, get theirs."""
    turns = []
    for expected in row.data["gold"]:
        if expected:
            turns.append(
                call_text([{**call, "arguments": arguments_by_name(row.data["classes"], call)} for call in expected])
            )
        turns.append(CLOSING)
    return turns


def _turns_of(answer: str) -> list[str]:
    """The turns of an episode given as a JSON list of texts; any other text is one turn."""
    if answer.startswith("["):
        try:
            turns = json.loads(answer)
        except (ValueError, RecursionError):
            return [answer]
        if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
            return turns
    return [answer]
