"""An office of our own, the same everywhere: made from a fixed seed, with the columns of NVIDIA's."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from cascade.environments.workplace.analytics import SOURCES
from cascade.environments.workplace.customers import PRODUCTS, STATUSES
from cascade.environments.workplace.office import CUSTOMERS, EMAILS, EVENTS, NOW, TASKS, VISITS, Office
from cascade.environments.workplace.tables import Record, Table
from cascade.environments.workplace.tasks import BOARDS, LISTS

DOMAIN = "larkfield.example"
_STAFF = (
    "ada.lindqvist",
    "bruno.castel",
    "chidi.okafor",
    "dilnoza.karimova",
    "edith.falk",
    "farid.haddad",
    "greta.nowak",
    "hana.mori",
    "ivo.petkov",
    "jamila.toure",
    "keiko.arai",
    "lorenzo.bassi",
    "mirela.dobre",
    "noor.rahimi",
    "oskar.virtanen",
    "priya.menon",
)
STAFF = tuple(f"{name}@{DOMAIN}" for name in _STAFF)
TEAM, SALES = STAFF[:10], STAFF[10:]  # who has tasks, and who has customers
TOPICS = (
    "office lease",
    "spring catalogue",
    "hiring plan",
    "travel policy",
    "supplier audit",
    "warehouse move",
    "price list",
    "winter party",
    "security training",
    "annual report",
    "support rota",
    "newsletter draft",
)
_KINDS = ("Question about the", "Update on the", "Notes on the", "Feedback on the")
_BODIES = (
    "Hi,\n\nI have gone through the {topic} once more and left comments. Can you have a look this week?\n\n{name}",
    "Hello,\n\nnothing new on the {topic} yet, I am still waiting for figures.\n\nBest,\n{name}",
    "Hi,\n\nthe {topic} is nearly done. One point is open and I would like your view on it.\n\nRegards,\n{name}",
    "Good morning,\n\nplease find my thoughts on the {topic} in the shared folder.\n\nThanks,\n{name}",
)
MEETINGS = (
    "Budget round",
    "Design critique",
    "Interview debrief",
    "Kick-off",
    "Release planning",
    "Retrospective",
    "Roadmap talk",
    "Sales forecast",
    "Stand-up",
    "Support handover",
)
_VERBS = ("Redraw", "Test", "Document", "Refactor", "Translate", "Measure", "Simplify", "Repair")
_THINGS = (
    "the login page",
    "the search index",
    "the invoice export",
    "the price table",
    "the image cache",
    "the contact form",
    "the nightly backup",
    "the map view",
    "the mail queue",
    "the date picker",
    "the audit log",
    "the start screen",
    "the colour palette",
    "the import script",
    "the error pages",
    "the side menu",
    "the rate limiter",
    "the icon set",
    "the print layout",
    "the help texts",
)
_FIRST = (
    "Alva",
    "Boris",
    "Carla",
    "Denis",
    "Elif",
    "Franz",
    "Gemma",
    "Henrik",
    "Irina",
    "Jonas",
    "Kaisa",
    "Luca",
    "Marta",
    "Nils",
    "Olivia",
)
_LAST = (
    "Abt",
    "Berg",
    "Costa",
    "Duval",
    "Engel",
    "Fiore",
    "Gruber",
    "Horvat",
    "Iversen",
    "Jansen",
    "Keller",
    "Lund",
    "Meier",
    "Novak",
    "Orlov",
    "Perez",
)
_FIRMS = ("brightmill", "corvane", "deltaform", "elmstone", "fernworks", "glasshaus")


@functools.cache
def generated_office() -> Office:
    """16 colleagues, 240 emails, 160 events, 700 visits, 160 tasks and 120 customers."""
    rng = random.Random("the generated office")
    return Office(
        STAFF,
        tuple(_visits(rng)),
        emails=Table(EMAILS, _emails(rng)),
        events=Table(EVENTS, _events(rng), relabels=False),
        tasks=Table(TASKS, _tasks(rng)),
        customers=Table(CUSTOMERS, _customers(rng)),
    )


def first_name(address: str) -> str:
    """`ada.lindqvist@larkfield.example` -> `Ada`. No two colleagues share one."""
    return address.partition(".")[0].capitalize()


def _now() -> datetime:
    return datetime.fromisoformat(NOW)


def _numbered(rng: random.Random, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> list[Record]:
    """Rows with ids in no order, as the first column."""
    numbers = rng.sample(range(len(rows)), len(rows))
    return [dict(zip(columns, (f"{number:08d}", *row), strict=True)) for number, row in zip(numbers, rows, strict=True)]


def _emails(rng: random.Random) -> list[Record]:
    minutes = sorted(rng.sample(range(1, 60 * 24 * 60), 240), reverse=True)
    rows = []
    for minute in minutes:
        sender, topic = rng.choice(STAFF), rng.choice(TOPICS)
        sent = _now() - timedelta(minutes=minute, seconds=rng.randrange(60))
        body = rng.choice(_BODIES).format(topic=topic, name=first_name(sender))
        rows.append(("inbox", sender, f"{rng.choice(_KINDS)} {topic}", str(sent), body))
    return _numbered(rng, EMAILS, rows)


def _events(rng: random.Random) -> list[Record]:
    days = [_now().replace(hour=0, minute=0, second=0) + timedelta(days=day) for day in range(-40, 31)]
    slots = [day + timedelta(hours=hour) for day in days if day.weekday() < 5 for hour in (9, 11, 13, 15, 17)]
    rows = [
        (rng.choice(MEETINGS), rng.choice(STAFF), str(slot), rng.choice(("30", "60", "90")))
        for slot in sorted(rng.sample(slots, 160))
    ]
    return _numbered(rng, EVENTS, rows)


def _visits(rng: random.Random) -> list[Record]:
    rows = []
    for _ in range(700):
        day = str((_now() - timedelta(days=rng.randrange(60))).date())
        seconds, engaged = str(rng.randint(1, 90)), str(rng.random() < 0.4)
        rows.append(
            (day, f"{rng.randrange(10_000):04d}", str(rng.randint(1, 20)), seconds, rng.choice(SOURCES), engaged)
        )
    return [dict(zip(VISITS, row, strict=True)) for row in rows]


def _tasks(rng: random.Random) -> list[Record]:
    rows = []
    for name in rng.sample([f"{verb} {thing}" for verb in _VERBS for thing in _THINGS], 160):
        due = str((_now() + timedelta(days=rng.randint(-20, 20))).date())
        rows.append((name, rng.choice(TEAM), rng.choice(LISTS), due, rng.choice(BOARDS)))
    return _numbered(rng, TASKS, rows)


def _customers(rng: random.Random) -> list[Record]:
    rows = []
    for name in rng.sample([f"{first} {last}" for first in _FIRST for last in _LAST], 120):
        email = f"{name.lower().replace(' ', '.')}@{rng.choice(_FIRMS)}.example"
        phone = f"555-{rng.randrange(1000):03d}-{rng.randrange(10_000):04d}" if rng.random() < 0.5 else None
        contact, follow_up = -rng.randrange(60), rng.randint(-10, 40)
        said = f"{(_now() + timedelta(days=contact)).date()}: Spoke on the phone."
        rows.append(
            (
                rng.choice(SALES),
                name,
                email,
                phone,
                str(_now() + timedelta(days=contact)),
                rng.choice(PRODUCTS),
                rng.choice(STATUSES),
                str(_now() + timedelta(days=follow_up)),
                said if rng.random() < 0.6 else None,
            )
        )
    return _numbered(rng, CUSTOMERS, rows)
