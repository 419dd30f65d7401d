"""Assignments with the boards of project management."""

from __future__ import annotations

import random

from cascade.environments.workplace.assignments.assignment import (
    TODAY,
    Assignment,
    Draw,
    ToolCall,
    call,
    coming_workday,
    counted,
    find_address,
    iso_day,
    said_day,
)
from cascade.environments.workplace.generated_office import TEAM, first_name
from cascade.environments.workplace.office import Office
from cascade.environments.workplace.tables import Record
from cascade.environments.workplace.tasks import BOARDS, LISTS

_NEW = ("Compare hosting offers", "Draw a new logo", "Plan the beta test", "Rewrite the tutorial", "Sort old tickets")


def create(rng: random.Random, office: Office) -> Assignment | None:
    task, who, board, state, due = (
        rng.choice(_NEW),
        rng.choice(TEAM),
        rng.choice(BOARDS),
        rng.choice(LISTS),
        coming_workday(rng),
    )
    name = first_name(who)
    request = f"Add a task '{task}' for {name} to the {state} list of the {board} board, due on {said_day(due)}."
    new = call(
        "project_management_create_task",
        task_name=task,
        assigned_to_email=who,
        list_name=state,
        due_date=iso_day(due),
        board=board,
    )
    return Assignment(request, [[find_address(name)], [new]], f"The task is on the {board} board.")


def move_overdue(rng: random.Random, office: Office) -> Assignment | None:
    """A condition: of whom has none, nothing may be changed."""
    who, (source, target) = rng.choice(TEAM), rng.sample(LISTS[:3], 2)
    name = first_name(who)
    late = [row for row in _tasks(office, assigned_to_email=who, list_name=source) if row["due_date"] < iso_day(TODAY)]
    request = f"If {name} has tasks in {source} that were due before today, move them to {target}. Leave all others."
    look = [[find_address(name)], [_search(assigned_to_email=who, list_name=source)]]
    if not late:
        return Assignment(request, look, f"{name} has no such task, so I have changed nothing.")
    moves = [_set(row, "list_name", target) for row in late]
    return Assignment(request, [*look, moves], f"I have moved {counted(len(late), 'task')}.")


def hand_over(rng: random.Random, office: Office) -> Assignment | None:
    (old, new), board, state = rng.sample(TEAM, 2), rng.choice(BOARDS), rng.choice(LISTS[:3])
    tasks = _tasks(office, assigned_to_email=old, board=board, list_name=state)
    if not tasks:
        return None
    names = first_name(old), first_name(new)
    request = f"{names[1]} takes over all of {names[0]}'s tasks in {state} on the {board} board. Please reassign them."
    look = [find_address(name) for name in names]
    search = _search(assigned_to_email=old, list_name=state, board=board)
    moves = [_set(row, "assigned_to_email", new) for row in tasks]
    return Assignment(request, [look, [search], moves], f"{names[1]} now has {counted(len(tasks), 'task')} more.")


def delete_completed(rng: random.Random, office: Office) -> Assignment | None:
    who, board = rng.choice(TEAM), rng.choice(BOARDS)
    tasks = _tasks(office, assigned_to_email=who, board=board, list_name="Completed")
    if not tasks:
        return None
    name = first_name(who)
    request = f"Delete {name}'s completed tasks from the {board} board."
    search = _search(assigned_to_email=who, list_name="Completed", board=board)
    deletions = [call("project_management_delete_task", task_id=row["task_id"]) for row in tasks]
    return Assignment(request, [[find_address(name)], [search], deletions], f"{counted(len(tasks), 'task')} deleted.")


def postpone_and_tell(rng: random.Random, office: Office) -> Assignment | None:
    """Two databases: who has the task is only known on the board."""
    task, due = rng.choice(office.tasks.rows), coming_workday(rng)
    if task["due_date"] == iso_day(due):
        return None
    body = f"New due date: {said_day(due)}"
    request = (
        f"'{task['task_name']}' will be late. Set its due date to {said_day(due)}, and email whoever works on it: the "
        f"subject is '{task['task_name']}', the text '{body}'."
    )
    send = call("email_send_email", recipient=task["assigned_to_email"], subject=task["task_name"], body=body)
    turns = [[_search(task_name=task["task_name"])], [_set(task, "due_date", iso_day(due)), send]]
    return Assignment(
        request, turns, f"It is now due on {said_day(due)}, and {first_name(task['assigned_to_email'])} knows."
    )


def _tasks(office: Office, **fields: str) -> list[Record]:
    return [row for row in office.tasks.rows if fields.items() <= row.items()]


def _search(**fields: str) -> ToolCall:
    return call("project_management_search_tasks", **fields)


def _set(task: Record, field: str, value: str) -> ToolCall:
    return call("project_management_update_task", task_id=task["task_id"], field=field, new_value=value)


DRAWS: tuple[Draw, ...] = (create, move_overdue, hand_over, delete_completed, postpone_and_tell)
