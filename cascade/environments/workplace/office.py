"""The databases of an office as every episode finds them: NVIDIA's, or one made from a seed."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass, field
from pathlib import Path

from cascade.environments.workplace.tables import Record, Table
from cascade.errors import DataError

NOW = "2023-11-30 23:59:00"  # when every episode plays; mails are sent then
FETCH = "python -m data.workplace"
EMAILS = ("email_id", "inbox/outbox", "sender/recipient", "subject", "sent_datetime", "body")
EVENTS = ("event_id", "event_name", "participant_email", "event_start", "duration")
VISITS = ("date_of_visit", "visitor_id", "page_views", "session_duration_seconds", "traffic_source", "user_engaged")
TASKS = ("task_id", "task_name", "assigned_to_email", "list_name", "due_date", "board")
CUSTOMERS = (
    "customer_id",
    "assigned_to_email",
    "customer_name",
    "customer_email",
    "customer_phone",
    "last_contact_date",
    "product_interest",
    "status",
    "follow_up_by",
    "notes",
)
DIRECTORY = "email_addresses.csv"
FILES = {
    "emails.csv": EMAILS,
    "calendar_events.csv": EVENTS,
    "analytics_data.csv": VISITS,
    "project_tasks.csv": TASKS,
    "customer_relationship_manager_data.csv": CUSTOMERS,
}
_EMPTY = {"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A", "#NA", "-nan", "-NaN"}


@dataclass(frozen=True)
class Office:
    """What no episode changes: staff and visits; and what every episode starts with a copy of."""

    staff: tuple[str, ...]  # addresses
    visits: tuple[Record, ...]
    emails: Table
    events: Table
    tasks: Table
    customers: Table
    plots: Table = field(default_factory=lambda: Table(("file_path",), ()))


@functools.lru_cache(maxsize=8)
def read_office(folder: Path) -> Office:
    """The office whose tables lie in a folder as CSV files. Raises `DataError` for missing or other files.

    They may also lie in `processed` and `raw` of the folder, as they do in `csv_data` of NeMo-Gym.
    """
    tables = {name: _read(_path(folder, name), columns) for name, columns in FILES.items()}
    directory = _path(folder, DIRECTORY)
    try:
        staff = directory.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise _unreadable(directory, error) from None
    return Office(
        tuple(staff),
        tuple(tables["analytics_data.csv"]),
        emails=Table(EMAILS, tables["emails.csv"]),
        events=Table(EVENTS, tables["calendar_events.csv"], relabels=False),
        tasks=Table(TASKS, tables["project_tasks.csv"]),
        customers=Table(CUSTOMERS, tables["customer_relationship_manager_data.csv"]),
    )


def _path(folder: Path, name: str) -> Path:
    places = [folder / name, folder / "processed" / name, folder / "raw" / name]
    return next((place for place in places if place.is_file()), places[0])


def _read(path: Path, columns: tuple[str, ...]) -> list[Record]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns:
                raise DataError(f"{path} has the columns {reader.fieldnames}.", f"Fetch it anew with `{FETCH}`.")
            return [{key: None if value in _EMPTY else value for key, value in row.items()} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
    return DataError(f"The workplace database {path} {why}: `{FETCH}` fetches it.", f"Run `{FETCH}`.")
