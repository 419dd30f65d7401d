"""Rows of SWE data sets, in the forms that people have them in, as one kind of task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cascade.environments.patches import PatchError, touched
from cascade.environments.swe_formats import fields_of, is_test
from cascade.errors import DataError

__all__ = ["SweTask", "is_test", "read_task", "task_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweTask:
    """An issue in a repository, what repairs it, and the tests that show it.

    Example: `SweTask(instance_id="schema-3", problem_statement="...", patch="--- a/...", fail_to_pass=("tests/..",),
    repository="/data/schema.tar.gz")`.
    """

    instance_id: str
    problem_statement: str
    patch: str = ""  # unified diff that repairs: the oracle; "" where the row has none
    test_patch: str = ""  # unified diff of tests, applied for grading only
    fail_to_pass: tuple[str, ...]  # pytest node ids
    pass_to_pass: tuple[str, ...] = ()
    repository: str = ""  # folder or .tar.gz of this machine; "" where the code is in an image only
    setup_patch: str = ""  # unified diff applied before anything else: the bug
    image: str = ""  # container image that holds code and tests
    test_command: tuple[str, ...] = ()  # in an image, where pytest is not the way
    test_files: tuple[str, ...] = ()  # what else than tests by their name belongs to the tests
    repo: str = ""  # e.g. keleshev/schema
    base_commit: str = ""
    dataset: str = ""  # e.g. SWE-Gym/SWE-Gym
    shown_files: tuple[tuple[str, str], ...] = ()  # path and text, where the row brings them: of an image's code

    def as_data(self) -> dict[str, Any]:
        """Plain JSON values, without what is empty; `task_of` reads them."""
        return {key: value for key, value in json.loads(json.dumps(asdict(self))).items() if value}


def task_of(data: Mapping[str, Any]) -> SweTask:
    """The task that `SweTask.as_data` wrote."""
    known = {field.name: data[field.name] for field in fields(SweTask) if field.name in data}
    for key in ("fail_to_pass", "pass_to_pass", "test_command", "test_files"):
        known[key] = tuple(known.get(key, ()))
    known["shown_files"] = tuple((path, text) for path, text in known.get("shown_files", ()))
    return SweTask(**known)


def read_task(record: Mapping[str, Any], folder: Path | None = None) -> SweTask:
    """A record of ours, SWE-bench, SWE-Gym, SWE-smith, R2E-Gym or NeMo-Gym.

    Args:
        folder: where a relative `repository` starts; without one it stays as it is.

    Raises:
        DataError: it is malformed, or neither a repository nor an image has its code.
    """
    task = SweTask(**fields_of(record))
    if folder is not None and task.repository:
        task = replace(task, repository=str((folder / task.repository).absolute()))
    return _checked(task)


def _checked(task: SweTask) -> SweTask:
    """The task, if something can be made of it. Raises `DataError`."""
    for key in ("instance_id", "problem_statement"):
        if not getattr(task, key).strip():
            raise DataError(f"The row has no `{key}`.", "Give it one.")
    if not task.fail_to_pass:
        raise DataError(f"{task.instance_id} has no `FAIL_TO_PASS`.", "Give the tests that show the issue.")
    if not task.repository and not task.image:
        raise DataError(f"{task.instance_id} has no code.", "Give it a `repository`, a folder or .tar.gz.")
    for key in ("patch", "test_patch", "setup_patch"):
        try:
            touched(getattr(task, key))
        except PatchError as error:
            raise DataError(f"The `{key}` of {task.instance_id} is no unified diff: {error}.", "Repair it.") from None
    return task
