"""The repair that a row brings, as calls of the agent's tools."""

from __future__ import annotations

import shlex
from typing import Any

from cascade.environments.patches import PatchError, apply_diff, parse_diff
from cascade.environments.swe_repository import Prepared, prepare
from cascade.environments.swe_rows import SweTask
from cascade.environments.swe_tools import BASH, CREATE, EDIT, STR_REPLACE, SUBMIT
from cascade.errors import DataError


def gold_calls(task: SweTask) -> list[dict[str, Any]]:
    """An edit for every hunk of the patch whose text stands in its file once, a new file for others, then `submit`.

    Raises `DataError` for a task without a patch, or with one that does not fit.
    """
    if not task.patch.strip():
        raise DataError(f"{task.instance_id} has no patch.", "Give it one, to have a gold answer.")
    prepared = prepare(task)
    try:
        changes = apply_diff(task.patch, prepared.read)
        calls: list[dict[str, Any]] = []
        for path, after in changes.items():
            if after is None:
                calls.append(_call(BASH, command=f"rm {shlex.quote(path)}"))
            else:
                calls += _edits(task, prepared, path, after.decode())
        return [*calls, _call(SUBMIT)]
    except (PatchError, UnicodeDecodeError) as error:
        raise DataError(f"The patch of {task.instance_id} does not fit: {error}.", "Repair it.") from None


def _edits(task: SweTask, prepared: Prepared, path: str, after: str) -> list[dict[str, Any]]:
    """What makes a file what it is to be."""
    text = (prepared.read(path) or b"").decode()
    calls = []
    for patch in parse_diff(task.patch):
        for hunk in patch.hunks if patch.old == patch.new == path else ():
            old, new = b"".join(hunk.side(b" -")).decode(), b"".join(hunk.side(b" +")).decode()
            if text.count(old) == 1 and old:
                text = text.replace(old, new)
                calls.append(_call(EDIT, command=STR_REPLACE, path=path, old_str=old, new_str=new))
    return calls if text == after else [_call(EDIT, command=CREATE, path=path, file_text=after)]


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}
