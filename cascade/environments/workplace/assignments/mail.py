"""Assignments with the mailbox."""

from __future__ import annotations

import random

from cascade.environments.workplace.assignments.assignment import (
    Assignment,
    Draw,
    ToolCall,
    call,
    counted,
    find_address,
    iso_day,
    past_day,
    said_day,
)
from cascade.environments.workplace.generated_office import STAFF, TOPICS, first_name
from cascade.environments.workplace.office import Office
from cascade.environments.workplace.tables import Record

REPLIES = (
    "Thank you, I will look at it tomorrow.",
    "That works for me.",
    "Can we talk about this on Monday?",
    "Please go ahead.",
    "I need another week for this.",
    "Good work, no comments from me.",
)


def reply_to_latest(rng: random.Random, office: Office) -> Assignment | None:
    email, found = _latest(rng, office)
    body, name = rng.choice(REPLIES), first_name(email["sender/recipient"])
    ask = rng.choice(
        ("Reply to {n}'s latest email about the {t}: '{b}'", "Answer {n}'s last email on the {t} with '{b}'")
    )
    request = ask.format(n=name, t=_topic(email), b=body)
    turns = [[_search(found)], [call("email_reply_email", email_id=email["email_id"], body=body)]]
    return Assignment(request, turns, f"I have replied to {name}.")


def delete_latest(rng: random.Random, office: Office) -> Assignment | None:
    sender = rng.choice(STAFF)
    email = _newest(office, sender, "")
    if email is None:
        return None
    name = first_name(sender)
    ask = rng.choice(("Delete the latest email from {n}.", "{n}'s last email can go, please delete it."))
    turns = [[_search(name.lower())], [call("email_delete_email", email_id=email["email_id"])]]
    return Assignment(ask.format(n=name), turns, f"{name}'s latest email is deleted.")


def forward_to_two(rng: random.Random, office: Office) -> Assignment | None:
    email, found = _latest(rng, office)
    others = rng.sample([one for one in STAFF if one != email["sender/recipient"]], 2)
    names = [first_name(other) for other in others]
    request = (
        f"Forward the latest email that {first_name(email['sender/recipient'])} sent me about the {_topic(email)}, "
        f"first to {names[0]} and then to {names[1]}."
    )
    forwards = [call("email_forward_email", email_id=email["email_id"], recipient=other) for other in others]
    return Assignment(
        request,
        [[_search(found), *(find_address(name) for name in names)], forwards],
        f"I have forwarded it to {names[0]} and {names[1]}.",
    )


def send_new(rng: random.Random, office: Office) -> Assignment | None:
    recipient, topic, body = rng.choice(office.staff), rng.choice(TOPICS), rng.choice(REPLIES)
    name, subject = first_name(recipient), f"{topic.capitalize()}"
    ask = rng.choice(
        ("Send {n} an email with the subject '{s}' that says '{b}'", "Write to {n}. Subject: '{s}', text: '{b}'")
    )
    send = call("email_send_email", recipient=recipient, subject=subject, body=body)
    return Assignment(
        ask.format(n=name, s=subject, b=body), [[find_address(name)], [send]], f"The email to {name} is sent."
    )


def reply_or_write(rng: random.Random, office: Office) -> Assignment | None:
    """A condition: only who looks knows which of two things is to be done."""
    sender, topic, body, since = rng.choice(STAFF), rng.choice(TOPICS), rng.choice(REPLIES), past_day(rng, 30)
    name, found = first_name(sender), _newest(office, sender, topic)
    recent = found is not None and found["sent_datetime"] >= iso_day(since)
    subject = f"News of the {topic}?"
    request = (
        f"Has {name} written to me about the {topic} since {said_day(since)}? If so, reply to the latest of these "
        f"emails with '{body}'. If not, send {name} an email with the subject '{subject}' and the same text."
    )
    look = [_search(f"{name.lower()} {topic}", date_min=iso_day(since)), find_address(name)]
    done: ToolCall = call("email_send_email", recipient=sender, subject=subject, body=body)
    if found is not None and recent:
        done = call("email_reply_email", email_id=found["email_id"], body=body)
    said = f"{name} had written, so I replied." if recent else f"There was no such email, so I wrote to {name}."
    return Assignment(request, [look, [done]], said)


def delete_all_about(rng: random.Random, office: Office) -> Assignment | None:
    sender, topic = rng.choice(STAFF), rng.choice(TOPICS)
    emails = [row for row in _from(office, sender) if topic in row["subject"]]
    if not emails:
        return None
    name = first_name(sender)
    request = f"Please delete all emails from {name} about the {topic}."
    look = _search(f"{name.lower()} {topic}", page_size=20)
    deletions = [call("email_delete_email", email_id=row["email_id"]) for row in emails]
    return Assignment(request, [[look], deletions], f"I have deleted {counted(len(emails), 'email')}.")


def _latest(rng: random.Random, office: Office) -> tuple[Record, str]:
    """The latest email of somebody about something, and a query that has it as its first result."""
    drawn = rng.choice(office.emails.rows)
    email = _newest(office, drawn["sender/recipient"], _topic(drawn)) or drawn
    return email, f"{first_name(email['sender/recipient']).lower()} {_topic(email)}"


def _newest(office: Office, sender: str, topic: str) -> Record | None:
    found = [row for row in _from(office, sender) if topic in row["subject"]]
    return max(found, key=lambda row: row["sent_datetime"], default=None)


def _from(office: Office, sender: str) -> list[Record]:
    return [row for row in office.emails.rows if row["sender/recipient"] == sender]


def _topic(email: Record) -> str:
    return email["subject"].partition(" the ")[2]


def _search(query: str, **more: object) -> ToolCall:
    return call("email_search_emails", query=query, **more)


DRAWS: tuple[Draw, ...] = (
    reply_to_latest,
    delete_latest,
    forward_to_two,
    send_new,
    reply_or_write,
    delete_all_about,
)
