"""The tools of the web analytics: visits are only read, plots are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from cascade.environments.workplace.state import State
from cascade.environments.workplace.tables import Record
from cascade.environments.workplace.tool import RefusedError, Tool, require_one_of

SOURCES = ("direct", "referral", "search engine", "social media")
PLOTTED = ("total_visits", "session_duration_seconds", "user_engaged")
PLOTTED += ("visits_direct", "visits_referral", "visits_search_engine", "visits_social_media")
PLOTS = ("bar", "line", "scatter", "histogram")


def get_visitor_information_by_id(state: State, visitor_id: str) -> list[dict[str, Any]]:
    found = [{**row, "user_engaged": _engaged(row)} for row in state.visits if row["visitor_id"] == visitor_id]
    if not found:
        raise RefusedError("Visitor not found.")
    return found


def create_plot(state: State, time_min: str, time_max: str, value_to_plot: str, plot_type: str) -> str:
    require_one_of(value_to_plot, PLOTTED, "value_to_plot")
    require_one_of(plot_type, PLOTS, "plot_type")
    file_path = f"plots/{time_min}_{time_max}_{value_to_plot}_{plot_type}.png"
    state.plots.add({"file_path": file_path})
    return file_path


def total_visits_count(state: State, time_min: str | None = None, time_max: str | None = None) -> dict[str, int]:
    return _by_day(state, time_min, time_max, len)


def engaged_users_count(state: State, time_min: str | None = None, time_max: str | None = None) -> dict[str, int]:
    return _by_day(state, time_min, time_max, lambda visits: sum(map(_engaged, visits)))


def traffic_source_count(
    state: State, time_min: str | None = None, time_max: str | None = None, traffic_source: str | None = None
) -> dict[str, int]:
    if not traffic_source:
        return _by_day(state, time_min, time_max, len)
    return _by_day(
        state, time_min, time_max, lambda visits: sum(visit["traffic_source"] == traffic_source for visit in visits)
    )


def get_average_session_duration(
    state: State, time_min: str | None = None, time_max: str | None = None
) -> dict[str, float]:
    return _by_day(
        state,
        time_min,
        time_max,
        lambda visits: sum(float(visit["session_duration_seconds"]) for visit in visits) / len(visits),
    )


def _by_day(
    state: State, time_min: str | None, time_max: str | None, measure: Callable[[list[Record]], Any]
) -> dict[str, Any]:
    """A measure of the visits of every day that had any, in order. Days are compared as text."""
    days: dict[str, list[Record]] = defaultdict(list)
    for visit in state.visits:
        day = visit["date_of_visit"]
        if (not time_min or day >= time_min) and (not time_max or day <= time_max):
            days[day].append(visit)
    return {day: measure(days[day]) for day in sorted(days)}


def _engaged(visit: Record) -> bool:
    return visit["user_engaged"] == "True"


_SPAN = {"time_min": "First day, YYYY-MM-DD", "time_max": "Last day, YYYY-MM-DD"}
TOOLS = (
    Tool(
        "analytics_get_visitor_information_by_id",
        "Shows the visits of one visitor.",
        {"visitor_id": "ID of the visitor"},
        get_visitor_information_by_id,
        ("visitor_id",),
    ),
    Tool(
        "analytics_create_plot",
        "Plots a value over a span of days.",
        {**_SPAN, "value_to_plot": f"One of: {', '.join(PLOTTED)}", "plot_type": f"One of: {', '.join(PLOTS)}"},
        create_plot,
        ("time_min", "time_max", "value_to_plot", "plot_type"),
        writes=True,
    ),
    Tool("analytics_total_visits_count", "Counts the visits of every day.", _SPAN, total_visits_count),
    Tool("analytics_engaged_users_count", "Counts the engaged users of every day.", _SPAN, engaged_users_count),
    Tool(
        "analytics_traffic_source_count",
        "Counts the visits of every day that came from a source.",
        {**_SPAN, "traffic_source": f"One of: {', '.join(SOURCES)}"},
        traffic_source_count,
    ),
    Tool(
        "analytics_get_average_session_duration",
        "Shows the mean length of a session on every day, in seconds.",
        _SPAN,
        get_average_session_duration,
    ),
)
