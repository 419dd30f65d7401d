"""The tools of the calendar."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cascade.environments.workplace.office import EVENTS
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tables import Record
from cascade.environments.workplace.tool import (
    RefusedError,
    Tool,
    contains,
    field_of,
    moment,
    page_of,
    require_moment,
    require_one_of,
)

CHANGEABLE = EVENTS[1:]


def get_event_information_by_id(state: State, event_id: str, field: str) -> dict[str, Any]:
    return field_of(state.events.find(_checked(event_id)), field, "Event")


def search_events(
    state: State,
    query: str = "",
    time_min: str | None = None,
    time_max: str | None = None,
    page: int = 1,
    page_size: int = 5,
) -> Any:
    found = [
        row
        for row in state.events.rows
        if contains(row["event_name"], query) or contains(row["participant_email"], query)
    ]
    if time_min:
        first = require_moment(time_min, "time_min")
        found = [row for row in found if _start(row) >= first]
    if time_max:
        last = require_moment(time_max, "time_max")
        found = [row for row in found if _start(row) <= last]
    found.sort(key=_start, reverse=True)
    return page_of(found, "events", page, page_size) if found else "No events found."


def create_event(state: State, event_name: str, participant_email: str, event_start: str, duration: str) -> str:
    require_moment(event_start, "event_start")
    _require_minutes(duration)
    number = str(state.events.next_number()).zfill(8)
    values = (number, event_name, participant_email.lower(), event_start, duration)
    state.events.add(dict(zip(EVENTS, values, strict=True)))
    return number


def delete_event(state: State, event_id: str) -> str:
    _require(state, event_id)
    state.events.delete(event_id)
    return "Event deleted successfully."


def update_event(state: State, event_id: str, field: str, new_value: str) -> str:
    require_one_of(field, CHANGEABLE, "field")
    if field == "event_start":
        require_moment(new_value, "event_start")
    elif field == "duration":
        _require_minutes(new_value)
    _require(state, event_id)
    state.events.update(event_id, field, new_value.lower() if field == "participant_email" else new_value)
    return "Event updated successfully."


def _checked(event_id: str) -> str:
    if len(event_id) != 8 or not event_id.isdigit():
        raise RefusedError("Invalid event ID format. Give 8 digits.")
    return event_id


def _require(state: State, event_id: str) -> None:
    if state.events.find(_checked(event_id)) is None:
        raise RefusedError("Event not found.")


def _require_minutes(duration: str) -> None:
    try:
        minutes = int(duration)
    except ValueError:
        minutes = 0
    if minutes <= 0:
        raise RefusedError("duration must be a positive number of minutes.")


def _start(row: Record) -> datetime:
    return moment(row["event_start"]) or datetime.min


_ID = {"event_id": "ID of the event, 8 digits"}
_NEW = {
    "event_name": "Name of the event",
    "participant_email": "Email address of the participant",
    "event_start": "When it starts, YYYY-MM-DD HH:MM:SS",
    "duration": "Its length in minutes",
}
TOOLS = (
    Tool(
        "calendar_get_event_information_by_id",
        "Shows one field of an event.",
        {**_ID, "field": f"One of: {', '.join(EVENTS)}"},
        get_event_information_by_id,
        ("event_id", "field"),
    ),
    Tool(
        "calendar_search_events",
        "Finds events by name or participant, the last first.",
        {
            "query": "A part of the name of the event, or of the address of the participant",
            "time_min": "Earliest start, YYYY-MM-DD HH:MM:SS",
            "time_max": "Latest start, YYYY-MM-DD HH:MM:SS",
            "page": "Which page of the results",
            "page_size": "Events a page, 5 unless given",
        },
        search_events,
    ),
    Tool("calendar_create_event", "Creates an event.", _NEW, create_event, tuple(_NEW), writes=True),
    Tool("calendar_delete_event", "Deletes an event.", _ID, delete_event, ("event_id",), writes=True),
    Tool(
        "calendar_update_event",
        "Changes one field of an event.",
        {**_ID, "field": f"One of: {', '.join(CHANGEABLE)}", "new_value": "What it shall be"},
        update_event,
        ("event_id", "field", "new_value"),
        writes=True,
    ),
)
