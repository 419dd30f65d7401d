"""The tools of the mailbox."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cascade.environments.workplace.office import EMAILS, NOW
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tables import Record
from cascade.environments.workplace.tool import RefusedError, Tool, field_of, moment, page_of, require_moment


def get_email_information_by_id(state: State, email_id: str, field: str) -> dict[str, Any]:
    return field_of(state.emails.find(email_id), field, "Email")


def search_emails(
    state: State,
    query: str = "",
    date_min: str | None = None,
    date_max: str | None = None,
    page: int = 1,
    page_size: int = 5,
) -> Any:
    words = set(query.lower().split())
    found = [row for row in state.emails.rows if all(word in _searched(row) for word in words)] if words else None
    found = list(state.emails.rows) if found is None else found
    if date_min:
        first = require_moment(date_min, "date_min").date()
        found = [row for row in found if _sent(row).date() >= first]
    if date_max:
        last = require_moment(date_max, "date_max").date()
        found = [row for row in found if _sent(row).date() <= last]
    found.sort(key=_sent, reverse=True)
    return page_of(found, "emails", page, page_size) if found else "No emails found."


def send_email(state: State, recipient: str, subject: str, body: str) -> str:
    if "@" not in recipient or "." not in recipient:
        raise RefusedError("Invalid recipient email address.")
    number = str(state.emails.next_number()) if state.emails.rows else "1"
    values = (number, "outbox", recipient.lower(), subject, NOW, body)
    state.emails.add(dict(zip(EMAILS, values, strict=True)))
    return "Email sent successfully."


def delete_email(state: State, email_id: str) -> str:
    _require(state, email_id)
    state.emails.delete(email_id)
    return "Email deleted successfully."


def forward_email(state: State, email_id: str, recipient: str) -> str:
    email = _require(state, email_id)
    send_email(state, recipient, f"FW: {email['subject']}", email["body"])
    return "Email forwarded successfully."


def reply_email(state: State, email_id: str, body: str) -> str:
    email = _require(state, email_id)
    send_email(state, email["sender/recipient"], f"RE: {email['subject']}", body)
    return "Email replied successfully."


def _require(state: State, email_id: str) -> Record:
    found = state.emails.find(email_id)
    if found is None:
        raise RefusedError("Email not found.")
    return found


def _searched(row: Record) -> str:
    return f"{row['subject']} {row['body']} {row['sender/recipient']}".lower()


def _sent(row: Record) -> datetime:
    return moment(row["sent_datetime"]) or datetime.min


_ID = {"email_id": "ID of the email"}
TOOLS = (
    Tool(
        "email_get_email_information_by_id",
        "Shows one field of an email.",
        {**_ID, "field": f"One of: {', '.join(EMAILS)}"},
        get_email_information_by_id,
        ("email_id", "field"),
    ),
    Tool(
        "email_search_emails",
        "Finds emails that have all words of a query in subject, body or address, the latest first.",
        {
            "query": "Words to look for",
            "date_min": "First day of sending, YYYY-MM-DD",
            "date_max": "Last day of sending, YYYY-MM-DD",
            "page": "Which page of the results",
            "page_size": "Emails a page, 5 unless given",
        },
        search_emails,
    ),
    Tool(
        "email_send_email",
        "Sends an email.",
        {"recipient": "Email address of the recipient", "subject": "Subject line", "body": "Text of the email"},
        send_email,
        ("recipient", "subject", "body"),
        writes=True,
    ),
    Tool("email_delete_email", "Deletes an email.", _ID, delete_email, ("email_id",), writes=True),
    Tool(
        "email_forward_email",
        "Forwards an email.",
        {**_ID, "recipient": "Email address of the recipient"},
        forward_email,
        ("email_id", "recipient"),
        writes=True,
    ),
    Tool(
        "email_reply_email",
        "Replies to an email.",
        {**_ID, "body": "Text of the reply"},
        reply_email,
        ("email_id", "body"),
        writes=True,
    ),
)
