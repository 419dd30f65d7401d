"""Assignments with the web analytics."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

from cascade.environments.workplace.analytics import PLOTS, PLOTTED
from cascade.environments.workplace.assignments.assignment import (
    TODAY,
    Assignment,
    Draw,
    ToolCall,
    call,
    find_address,
    iso_day,
    past_day,
    said_day,
)
from cascade.environments.workplace.generated_office import STAFF, first_name
from cascade.environments.workplace.office import Office

_SAID = {
    "total_visits": "the total visits",
    "session_duration_seconds": "the session duration in seconds",
    "user_engaged": "the engaged users",
    "visits_direct": "the direct visits",
    "visits_referral": "the visits by referral",
    "visits_search_engine": "the visits from search engines",
    "visits_social_media": "the visits from social media",
}


def plot(rng: random.Random, office: Office) -> Assignment | None:
    value, kind, (first, last) = rng.choice(PLOTTED), rng.choice(PLOTS), _span(rng)
    ask = rng.choice(("Make a {k} plot of {v} from {a} to {b}.", "Plot {v} between {a} and {b} as a {k} plot."))
    request = ask.format(k=kind, v=_SAID[value], a=said_day(first), b=said_day(last))
    return Assignment(request, [[_plot(first, last, value, kind)]], "The plot is made.")


def plot_by_threshold(rng: random.Random, office: Office) -> Assignment | None:
    """A condition: the figure decides on the kind of the plot."""
    day, (first, last), value = past_day(rng), _span(rng), rng.choice(PLOTTED)
    count = sum(visit["date_of_visit"] == iso_day(day) for visit in office.visits)
    if count == 0:
        return None
    limit, (many, few) = count + rng.choice((-3, -2, -1, 0, 1, 2)), rng.sample(PLOTS, 2)
    if limit < 1:
        return None
    request = (
        f"Were there more than {limit} visits on {said_day(day)}? If so, make a {many} plot of {_SAID[value]} from "
        f"{said_day(first)} to {said_day(last)}, otherwise a {few} plot of the same."
    )
    look = call("analytics_total_visits_count", time_min=iso_day(day), time_max=iso_day(day))
    kind = many if count > limit else few
    return Assignment(request, [[look], [_plot(first, last, value, kind)]], f"It was {count}, so I made a {kind} plot.")


def plot_busiest_day(rng: random.Random, office: Office) -> Assignment | None:
    (first, last), value, kind = _span(rng), rng.choice(PLOTTED), rng.choice(PLOTS)
    visits = Counter(
        visit["date_of_visit"] for visit in office.visits if iso_day(first) <= visit["date_of_visit"] <= iso_day(last)
    )
    top = visits.most_common(2)
    if len(top) < 2 or top[0][1] == top[1][1]:
        return None
    request = (
        f"Find the day with the most visits from {said_day(first)} to {said_day(last)}, and make a {kind} plot of "
        f"{_SAID[value]} of that day alone."
    )
    day = datetime.fromisoformat(top[0][0])
    look = call("analytics_total_visits_count", time_min=iso_day(first), time_max=iso_day(last))
    return Assignment(request, [[look], [_plot(day, day, value, kind)]], f"It was {said_day(day)}; the plot is made.")


def report_engaged(rng: random.Random, office: Office) -> Assignment | None:
    """Two databases: a figure looked up in one is sent by another."""
    day, who = past_day(rng), rng.choice(STAFF)
    visits = [visit for visit in office.visits if visit["date_of_visit"] == iso_day(day)]
    if not visits:
        return None
    engaged, name = sum(visit["user_engaged"] == "True" for visit in visits), first_name(who)
    subject = f"Engaged users on {said_day(day)}"
    request = (
        f"Email {name} how many engaged users we had on {said_day(day)}. The subject is '{subject}', and the text is "
        "nothing but the number."
    )
    look = call("analytics_engaged_users_count", time_min=iso_day(day), time_max=iso_day(day))
    send = call("email_send_email", recipient=who, subject=subject, body=str(engaged))
    return Assignment(request, [[look, find_address(name)], [send]], f"It was {engaged}; the email to {name} is sent.")


def _span(rng: random.Random) -> tuple[datetime, datetime]:
    first = past_day(rng)
    return first, min(first + timedelta(days=rng.randint(3, 25)), TODAY)


def _plot(first: datetime, last: datetime, value: str, kind: str) -> ToolCall:
    return call(
        "analytics_create_plot", time_min=iso_day(first), time_max=iso_day(last), value_to_plot=value, plot_type=kind
    )


DRAWS: tuple[Draw, ...] = (plot, plot_by_threshold, plot_busiest_day, report_engaged)
