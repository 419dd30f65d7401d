"""The tools of project management."""

from __future__ import annotations

import re
from typing import Any

from cascade.environments.workplace.office import TASKS
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tables import Record
from cascade.environments.workplace.tool import RefusedError, Tool, contains, field_of, require_one_of

LISTS = ("Backlog", "In Progress", "In Review", "Completed")
BOARDS = ("Back end", "Front end", "Design")
_ADDRESS = re.compile(r"[a-zA-Z0-9._%+-]{1,64}@[a-zA-Z0-9.-]{1,253}")


def get_task_information_by_id(state: State, task_id: str, field: str) -> dict[str, Any]:
    return field_of(state.tasks.find(task_id), field, "Task")


def search_tasks(
    state: State,
    task_name: str | None = None,
    assigned_to_email: str | None = None,
    list_name: str | None = None,
    due_date: str | None = None,
    board: str | None = None,
) -> list[Record]:
    wanted = {"task_name": task_name, "list_name": list_name, "due_date": due_date, "board": board}
    wanted = {column: part for column, part in wanted.items() if part}
    if not wanted and not assigned_to_email:
        raise RefusedError("No search parameters provided.")
    if assigned_to_email and not _ADDRESS.fullmatch(assigned_to_email):
        raise RefusedError("Invalid email format for assigned_to_email.")
    return [
        row
        for row in state.tasks.rows
        if (not assigned_to_email or row["assigned_to_email"].lower() == assigned_to_email.lower())
        and all(contains(row[column], part) for column, part in wanted.items())
    ]


def create_task(state: State, task_name: str, assigned_to_email: str, list_name: str, due_date: str, board: str) -> str:
    _require_member(state, assigned_to_email.lower())
    require_one_of(list_name, LISTS, "list_name")
    require_one_of(board, BOARDS, "board")
    number = str(state.tasks.next_number()).zfill(8)
    values = (number, task_name, assigned_to_email.lower(), list_name, due_date, board)
    state.tasks.add(dict(zip(TASKS, values, strict=True)))
    return number


def delete_task(state: State, task_id: str) -> str:
    _require(state, task_id)
    state.tasks.delete(task_id)
    return "Task deleted successfully."


def update_task(state: State, task_id: str, field: str, new_value: str) -> str:
    if field == "assigned_to_email":
        new_value = new_value.lower()
        _require_member(state, new_value)
    elif field == "board":
        require_one_of(new_value, BOARDS, "board")
    elif field == "list_name":
        require_one_of(new_value, LISTS, "list_name")
    _require(state, task_id)
    require_one_of(field, TASKS, "field")
    state.tasks.update(task_id, field, new_value)
    return "Task updated successfully."


def _require(state: State, task_id: str) -> None:
    if state.tasks.find(task_id) is None:
        raise RefusedError("Task not found.")


def _require_member(state: State, address: str) -> None:
    """Only who has a task can be given one, which is how the reference knows the team."""
    if not any(row["assigned_to_email"].lower() == address for row in state.tasks.rows):
        raise RefusedError("assigned_to_email is not the address of a team member.")


_ID = {"task_id": "ID of the task, 8 digits"}
_FIELDS = {
    "task_name": "Name of the task",
    "assigned_to_email": "Email address of who works on it",
    "list_name": f"One of: {', '.join(LISTS)}",
    "due_date": "When it is due, YYYY-MM-DD",
    "board": f"One of: {', '.join(BOARDS)}",
}
TOOLS = (
    Tool(
        "project_management_get_task_information_by_id",
        "Shows one field of a task.",
        {**_ID, "field": f"One of: {', '.join(TASKS)}"},
        get_task_information_by_id,
        ("task_id", "field"),
    ),
    Tool("project_management_search_tasks", "Finds tasks that fit all that is given.", _FIELDS, search_tasks),
    Tool("project_management_create_task", "Creates a task.", _FIELDS, create_task, tuple(_FIELDS), writes=True),
    Tool("project_management_delete_task", "Deletes a task.", _ID, delete_task, ("task_id",), writes=True),
    Tool(
        "project_management_update_task",
        "Changes one field of a task.",
        {**_ID, "field": f"One of: {', '.join(_FIELDS)}", "new_value": "What it shall be"},
        update_task,
        ("task_id", "field", "new_value"),
        writes=True,
    ),
)
