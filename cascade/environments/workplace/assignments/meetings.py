"""Assignments with the calendar."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from cascade.environments.workplace.assignments.assignment import (
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
from cascade.environments.workplace.generated_office import MEETINGS, STAFF, first_name
from cascade.environments.workplace.office import NOW, Office
from cascade.environments.workplace.tables import Record


def book(rng: random.Random, office: Office) -> Assignment | None:
    who, name, minutes = rng.choice(office.staff), rng.choice(MEETINGS), rng.choice((30, 45, 60))
    start = coming_workday(rng) + timedelta(hours=rng.randint(9, 16))
    ask = rng.choice(
        (
            "Book a {m}-minute meeting '{e}' with {n} on {d} at {t}.",
            "{n} and I need {m} minutes for '{e}' on {d} at {t}.",
        )
    )
    first = first_name(who)
    request = ask.format(m=minutes, e=name, n=first, d=said_day(start), t=f"{start:%H:%M}")
    return Assignment(request, [[find_address(first)], [_create(name, who, start, minutes)]], "The meeting is booked.")


def cancel_next(rng: random.Random, office: Office) -> Assignment | None:
    who = rng.choice(STAFF)
    coming = _coming(office, participant_email=who)
    if not coming:
        return None
    name = first_name(who)
    ask = rng.choice(("Cancel my next meeting with {n}.", "I can't make the next meeting with {n}, please delete it."))
    look = call("calendar_search_events", query=name.lower(), time_min=NOW, page_size=50)
    turns = [[look], [call("calendar_delete_event", event_id=coming[0]["event_id"])]]
    return Assignment(ask.format(n=name), turns, f"The next meeting with {name} is cancelled.")


def move_next(rng: random.Random, office: Office) -> Assignment | None:
    name, start = rng.choice(MEETINGS), coming_workday(rng) + timedelta(hours=rng.randint(9, 16))
    coming = _coming(office, event_name=name)
    if not coming:
        return None
    request = f"Move the next '{name}' to {said_day(start)} at {start:%H:%M}."
    look = call("calendar_search_events", query=name, time_min=NOW, page_size=50)
    return Assignment(request, [[look], [_set(coming[0], "event_start", str(start))]], f"'{name}' is moved.")


def rename_last_of_day(rng: random.Random, office: Office) -> Assignment | None:
    day, name = coming_workday(rng), rng.choice(MEETINGS)
    events = _on(office, day)
    if not events or events[-1]["event_name"] == name:
        return None
    request = f"Change the name of the last event on {said_day(day)} to '{name}'."
    return Assignment(request, [[_look_at(day)], [_set(events[-1], "event_name", name)]], f"It is now called '{name}'.")


def cancel_all_with(rng: random.Random, office: Office) -> Assignment | None:
    who, until = rng.choice(STAFF), coming_workday(rng)
    coming = [row for row in _coming(office, participant_email=who) if row["event_start"] < iso_day(until)]
    if not coming:
        return None
    name = first_name(who)
    request = f"{name} is on leave from now on and back on {said_day(until)}. Delete all our meetings before that day."
    look = call(
        "calendar_search_events", query=name.lower(), time_min=NOW, time_max=f"{iso_day(until)} 00:00:00", page_size=50
    )
    deletions = [call("calendar_delete_event", event_id=row["event_id"]) for row in coming]
    return Assignment(request, [[look], deletions], f"I have cancelled {counted(len(coming), 'meeting')}.")


def book_if_free(rng: random.Random, office: Office) -> Assignment | None:
    """A condition: where the day is taken, nothing may be changed."""
    who, name, day = rng.choice(STAFF), rng.choice(MEETINGS), coming_workday(rng)
    hour, first = rng.choice((9, 11, 13, 15, 17)), first_name(who)
    start = day + timedelta(hours=hour)
    taken = any(row["event_start"] == str(start) for row in _on(office, day))
    request = (
        f"If no event in my calendar starts on {said_day(day)} at {start:%H:%M}, book '{name}' with {first} then, for "
        "30 minutes. Otherwise leave the calendar as it is."
    )
    look = [[_look_at(day), find_address(first)]]
    if taken:
        return Assignment(request, look, "Another event starts then, so I have changed nothing.")
    return Assignment(
        request, [*look, [_create(name, who, start, 30)]], "Nothing starts then, so the meeting is booked."
    )


def _create(name: str, who: str, start: datetime, minutes: int) -> ToolCall:
    return call(
        "calendar_create_event", event_name=name, participant_email=who, event_start=str(start), duration=str(minutes)
    )


def _set(event: Record, field: str, value: str) -> ToolCall:
    return call("calendar_update_event", event_id=event["event_id"], field=field, new_value=value)


def _look_at(day: datetime) -> ToolCall:
    return call("calendar_search_events", time_min=f"{iso_day(day)} 00:00:00", time_max=f"{iso_day(day)} 23:59:00")


def _on(office: Office, day: datetime) -> list[Record]:
    return [row for row in office.events.rows if row["event_start"].startswith(iso_day(day))]


def _coming(office: Office, **fields: str) -> list[Record]:
    """Events from now on with these fields, in order."""
    found = [row for row in office.events.rows if row["event_start"] > NOW and fields.items() <= row.items()]
    return sorted(found, key=lambda row: row["event_start"])


DRAWS: tuple[Draw, ...] = (book, cancel_next, move_next, rename_last_of_day, cancel_all_with, book_if_free)
