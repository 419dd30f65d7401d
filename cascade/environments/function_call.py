"""tool_use: the next call of a conversation, compared with the expected one argument by argument."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.environments.row_source import RowEnvironment
from cascade.environments.tool_calls import Call, call_text, calls_of
from cascade.errors import ConfigError, DataError
from cascade.types import Row, Score

MAX_MESSAGE = 50_000  # characters of an answer to the user, where one is expected in place of a call


@dataclass(frozen=True, kw_only=True)
class FunctionCall(RowEnvironment):
    """Rows of NeMo-Gym's `single_step_tool_use_with_argument_comparison`, one step of an expert's trajectory each.

    `expected_action` is `{"type": "function_call", "name": ..., "arguments": ...}`, of which the first call of the
    answer must be the like, or `{"type": "message", "content": ...}`, for which any text without a call will do.
    Arguments are alike when they have the same keys, and values of the same type that are alike: numbers within
    `tolerance`, texts of two or more words when they share enough of them (see `alike`), all else when it is equal.

    Args:
        word_overlap: words that two texts share over the words of both together, so that 0.5 is all of them. NeMo-Gym
            asks for 0.1 in conversations, 0.3 in searches, and 0 in software engineering.
    """

    name: str = "function_call"
    domain: str = "tool_use"
    word_overlap: float = 0.1
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.word_overlap <= 0.5:
            raise ConfigError(f"word_overlap is {self.word_overlap}.", "Give 0 to 0.5, which asks for the same words.")
        if not self.tolerance >= 0:
            raise ConfigError(f"tolerance is {self.tolerance}.", "Give a number that is not negative.")

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        action = record.get("expected_action")
        if not isinstance(action, Mapping) or action.get("type") not in ("function_call", "message"):
            raise DataError("There is no `expected_action`.", "Give its `type`: function_call or message.")
        if action["type"] == "message":
            return {"expected_action": {"type": "message", "content": str(action.get("content") or "")}}
        call = _expected_call(action)
        return {"expected_action": {"type": "function_call", "name": call.name, "arguments": dict(call.arguments)}}

    def gold(self, row: Row) -> str:
        action = row.data["expected_action"]
        if action["type"] == "function_call":
            return call_text([action])
        return action["content"].strip() or "Done."  # any message will do

    def score(self, row: Row, answer: str) -> Score:
        """1 for the expected kind of action and, of a call, the expected tool with arguments alike.

        Parts: `called` whether there is a call, `readable` whether the first one can be read, `tool` whether it is
        the expected one, `correct`; and `extra_calls`, how many there are behind the first: they are not judged.
        """
        action = row.data["expected_action"]
        calls = calls_of(answer, self.tools(row))
        parts = {"called": float(bool(calls)), "extra_calls": float(max(len(calls) - 1, 0))}
        if action["type"] == "message":
            return _score({**parts, "correct": float(not calls and 0 < len(answer.strip()) <= MAX_MESSAGE)})
        if not calls:
            return _score({**parts, "correct": 0.0})
        first = calls[0]
        right_tool = not first.problem and first.name == action["name"]
        correct = right_tool and alike(first.arguments, action["arguments"], self.word_overlap, self.tolerance)
        return _score(
            {**parts, "readable": float(not first.problem), "tool": float(right_tool), "correct": float(correct)}
        )


def alike(found: Any, expected: Any, word_overlap: float, tolerance: float) -> bool:
    """Whether two JSON values are alike as NeMo-Gym's tool call comparator has it.

    Types are Python's: true passes where 1 is expected, 1 does not where 1.0 is. Texts of fewer than two words must
    be equal; longer ones are compared as bags of words in lower case, whatever their order.
    """
    if not isinstance(found, type(expected)):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            alike(found[key], value, word_overlap, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            alike(one, other, word_overlap, tolerance) for one, other in zip(found, expected, strict=True)
        )
    if isinstance(expected, float):
        return abs(found - expected) < tolerance
    if isinstance(expected, str):
        words, expected_words = Counter(found.lower().split()), Counter(expected.lower().split())
        if words.total() < 2 or expected_words.total() < 2:
            return found == expected
        return (words & expected_words).total() / (words.total() + expected_words.total()) >= word_overlap
    return found == expected


def _expected_call(action: Mapping[str, Any]) -> Call:
    """The expected call; read as strictly as an answer is, since no answer could equal what cannot be read."""
    name, arguments = action.get("name"), action.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise DataError("The expected call has no `name`.", "Give the name of a tool.")
    if not isinstance(arguments, str):
        try:
            arguments = json.dumps(arguments)
        except (TypeError, ValueError, RecursionError):
            arguments = "not JSON"
    call = calls_of(call_text([{"name": name, "arguments": arguments}]))[0]
    if call.problem:
        raise DataError(f"The expected call {name} has unreadable arguments.", "Give a JSON object.")
    return call


def _score(parts: Mapping[str, float]) -> Score:
    return Score(parts["correct"], parts)
