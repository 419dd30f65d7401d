"""The databases as an episode has left them so far, and whether two episodes left the same."""

from __future__ import annotations

from cascade.environments.workplace.office import Office

DATABASES = {
    "email": "emails",
    "calendar": "events",
    "analytics": "plots",
    "project_management": "tasks",
    "customer_relationship_manager": "customers",
}
"""What the reference calls a database -> the table of it that tools change."""

CASED = ("status", "list_name", "board")  # columns of which the reference compares the case


class State:
    """The tables of one episode."""

    def __init__(self, office: Office) -> None:
        self.staff, self.visits = office.staff, office.visits
        self.emails, self.events = office.emails.copy(), office.events.copy()
        self.tasks, self.customers = office.tasks.copy(), office.customers.copy()
        self.plots = office.plots.copy()

    def equal(self, other: State) -> dict[str, bool]:
        """By database, whether both hold the same rows in the same order."""
        return {name: getattr(self, table).equals(getattr(other, table), CASED) for name, table in DATABASES.items()}
