"""What an assignment is, and what all of them are put together from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cascade.environments.workplace.office import NOW, Office

ToolCall = dict[str, Any]
"""`{"name": ..., "arguments": {...}}`"""

TODAY = datetime.fromisoformat(NOW).replace(hour=0, minute=0, second=0)


@dataclass(frozen=True)
class Assignment:
    """A request and how to fulfil it: the calls of every turn, those that look things up included."""

    request: str
    turns: Sequence[Sequence[ToolCall]]
    closing: str


Draw = Callable[[random.Random, Office], Assignment | None]
"""Draws an assignment of one kind; None where the draw has no single right result, or nothing to do."""


def call(name: str, /, **arguments: Any) -> ToolCall:
    return {"name": name, "arguments": arguments}


def find_address(first_name: str) -> ToolCall:
    return call("company_directory_find_email_address", name=first_name)


def said_day(day: datetime) -> str:
    """`December 4`"""
    return f"{day:%B} {day.day}"


def iso_day(day: datetime) -> str:
    """`2023-12-04`"""
    return str(day.date())


def coming_workday(rng: random.Random) -> datetime:
    """A working day of the next four weeks."""
    day = TODAY + timedelta(days=rng.randint(1, 28))
    return day if day.weekday() < 5 else day + timedelta(days=2)


def past_day(rng: random.Random, days: int = 55) -> datetime:
    return TODAY - timedelta(days=rng.randint(1, days))


def counted(number: int, thing: str) -> str:
    """`1 task`, `3 tasks`"""
    return f"{number} {thing}" + "s" * (number != 1)
