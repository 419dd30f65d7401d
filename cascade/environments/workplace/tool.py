"""What a tool of the office is: a name, a schema, and what it does to the state."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cascade.environments.workplace.tables import Record

MAX_TEXT = 20_000  # characters of one argument
MAX_QUERY = 500  # characters of what a search looks for
MAX_PAGE = 100  # records a search shows at once
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%m-%d-%Y", "%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y")
_TIMES = ("%H:%M:%S", "%H:%M", "%I:%M %p", "%I:%M%p", "%I %p", "%I%p")
_FORMATS = (*_DAYS, *_TIMES, *(f"{day} {time}" for day in _DAYS for time in _TIMES))


class RefusedError(Exception):
    """Why a tool does nothing, for the model to read."""


@dataclass(frozen=True)
class Tool:
    """`run(state, **arguments)` returns what the model is shown, as JSON values, or raises `RefusedError`."""

    name: str
    description: str
    parameters: Mapping[str, str]  # name -> what it is; all are text but `page` and `page_size`
    run: Callable[..., Any]
    required: tuple[str, ...] = ()
    writes: bool = False

    def schema(self) -> dict[str, Any]:
        """The tool in the form of chat completions."""
        properties = {name: {"type": _type(name), "description": said} for name, said in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": list(self.required)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that fit the schema, those without a value left out. Raises `RefusedError` for others."""
        for name, value in given.items():
            if name not in self.parameters:
                raise RefusedError(f"There is no parameter {name[:80]!r}. Give: {', '.join(self.parameters)}.")
            if value is None:
                continue
            if type(value) is not (int if _type(name) == "integer" else str):
                raise RefusedError(f"{name} must be of type {_type(name)}.")
            if isinstance(value, str) and len(value) > (MAX_TEXT if self.writes else MAX_QUERY):
                raise RefusedError(f"{name} is too long.")
        missing = [name for name in self.required if not given.get(name)]
        if missing:
            raise RefusedError(f"{', '.join(missing)} not provided.")
        # The reference leaves out what is null in every tool but one: it keeps a customer's `notes` as null.
        return {name: value for name, value in given.items() if value is not None or name == "notes"}


def page_of(records: Sequence[Record], name: str, page: int, page_size: int) -> dict[str, Any]:
    """One page of what a search found, with where it stands among all of them."""
    if not 1 <= page_size <= MAX_PAGE:
        raise RefusedError(f"page_size must be 1 to {MAX_PAGE}.")
    pages = -(-len(records) // page_size)
    page = max(1, min(page, pages))
    shown = list(records[(page - 1) * page_size : page * page_size])
    pagination = {f"total_{name}": len(records), "page": page, "page_size": page_size, "total_pages": pages}
    return {name: shown, "pagination": pagination}


def field_of(row: Record | None, field: str, kind: str) -> dict[str, Any]:
    """One field of a row that was looked up."""
    if row is None:
        raise RefusedError(f"{kind} not found.")
    if field not in row:
        raise RefusedError(f"There is no field {field[:80]!r}. Available fields: {', '.join(row)}.")
    return {field: row[field]}


@functools.lru_cache(maxsize=8192)
def moment(text: str | None) -> datetime | None:
    """A date, a time or both, in ISO 8601 or another common form; None for anything else."""
    if text is None or len(text) > 40:
        return None
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    text = " ".join(text.replace(",", " ").split())
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None


def require_moment(text: str, name: str) -> datetime:
    """The same; raises `RefusedError` for what is neither."""
    found = moment(text)
    if found is None:
        raise RefusedError(f"{name} is not a date. Write it as YYYY-MM-DD HH:MM:SS.")
    return found


def require_one_of(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise RefusedError(f"{name} is not valid. Choose from: {', '.join(allowed)}.")


def contains(value: Any, part: str) -> bool:
    """Whether a field holds a text, in any case."""
    return isinstance(value, str) and part.lower() in value.lower()


def _type(parameter: str) -> str:
    return "integer" if parameter in ("page", "page_size") else "string"
