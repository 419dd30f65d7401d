"""The tool of the company directory."""

from __future__ import annotations

from cascade.environments.workplace.state import State
from cascade.environments.workplace.tool import RefusedError, Tool


def find_email_address(state: State, name: str = "") -> list[str]:
    if not name:
        raise RefusedError("name not provided.")
    return [address for address in state.staff if name.lower() in address.lower()]


TOOLS = (
    Tool(
        "company_directory_find_email_address",
        "Lists the email addresses of colleagues that contain a name.",
        {"name": "A name or a part of one, in any case"},
        find_email_address,
    ),
)
