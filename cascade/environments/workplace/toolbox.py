"""All tools of the office, and calls of them carried out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cascade.environments.tool_calls import Call
from cascade.environments.workplace import analytics, customers, directory, emails, events, tasks
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tool import RefusedError, Tool

_FAMILIES = (directory, emails, events, analytics, tasks, customers)
TOOLS: dict[str, Tool] = {tool.name: tool for family in _FAMILIES for tool in family.TOOLS}
SCHEMAS: list[dict[str, Any]] = [tool.schema() for tool in TOOLS.values()]


def carry_out(state: State, call: Call) -> str:
    """What the model is shown of a call, as JSON: its `output`, or the `error` of one that did nothing."""
    try:
        return json.dumps({"output": _run(state, call)}, ensure_ascii=False)
    except RefusedError as error:
        return json.dumps({"error": str(error)}, ensure_ascii=False)


def replay(state: State, calls: Iterable[Call]) -> int:
    """Carry out whatever changes the databases, and count the calls that are refused.

    Tools that only read are not run: of them, a call is refused that does not fit the schema.
    """
    refused = 0
    for call in calls:
        try:
            _run(state, call, reading=False)
        except RefusedError:
            refused += 1
    return refused


def _run(state: State, call: Call, reading: bool = True) -> Any:
    if call.problem:
        raise RefusedError(call.problem)
    tool = TOOLS.get(call.name)
    if tool is None:
        raise RefusedError(f"There is no tool {call.name[:80]!r}.")
    arguments = tool.arguments(call.arguments)
    if not tool.writes and not reading:
        return None
    try:
        return tool.run(state, **arguments)
    except ValueError:  # an id that is no number, or none left to count on from
        raise RefusedError("The tool has no number for a new entry.") from None
