"""The tools of the customer relationship manager."""

from __future__ import annotations

from typing import Any

from cascade.environments.workplace.office import CUSTOMERS
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tool import RefusedError, Tool, contains, page_of, require_one_of

STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
_PARTS = ("customer_name", "customer_email", "product_interest", "status", "assigned_to_email")
_DATES = ("last_contact_date", "follow_up_by")


def search_customers(state: State, page: int = 1, page_size: int = 5, **wanted: str) -> Any:
    """Dates are compared as text, as in the reference: a day comes before every time of that day."""
    if not any(wanted.values()):
        raise RefusedError("No search parameters provided. Give at least one.")
    found = list(state.customers.rows)
    for column in _PARTS:
        if part := wanted.get(column):
            found = [row for row in found if contains(row[column], part)]
    for column in _DATES:
        if first := wanted.get(f"{column}_min"):
            found = [row for row in found if row[column] and row[column] >= first]
        if last := wanted.get(f"{column}_max"):
            found = [row for row in found if row[column] and row[column] <= last]
    return page_of(found, "customers", page, page_size) if found else "No customers found."


def update_customer(state: State, customer_id: str, field: str, new_value: str) -> str:
    if field == "status":
        require_one_of(new_value, STATUSES, "status")
    elif field == "product_interest":
        require_one_of(new_value, PRODUCTS, "product_interest")
    elif field in ("customer_email", "assigned_to_email"):
        new_value = new_value.lower()
    _require(state, customer_id)
    require_one_of(field, CUSTOMERS, "field")
    state.customers.update(customer_id, field, new_value)
    return "Customer updated successfully."


def add_customer(state: State, notes: str | None = "", **given: str) -> str:
    number = str(state.customers.next_number()).zfill(8)
    given = {key: value.lower() if key.endswith("_email") else value for key, value in given.items()}
    row = {**dict.fromkeys(CUSTOMERS), **given, "customer_id": number, "notes": notes}
    state.customers.add(row)
    return number


def delete_customer(state: State, customer_id: str) -> str:
    _require(state, customer_id)
    state.customers.delete(customer_id)
    return "Customer deleted successfully."


def _require(state: State, customer_id: str) -> None:
    if state.customers.find(customer_id) is None:
        raise RefusedError("Customer not found.")


_ID = {"customer_id": "ID of the customer"}
_FIELDS = {
    "customer_name": "Name of the customer",
    "assigned_to_email": "Email address of the colleague who looks after the customer",
    "status": f"One of: {', '.join(STATUSES)}",
    "customer_email": "Email address of the customer",
    "customer_phone": "Phone number of the customer",
    "last_contact_date": "When the customer was last spoken to, YYYY-MM-DD",
    "product_interest": f"One of: {', '.join(PRODUCTS)}",
    "notes": "Notes about the customer",
    "follow_up_by": "When to speak to the customer next, YYYY-MM-DD",
}
_SEARCH = {column: f"A part of it. {_FIELDS[column]}" for column in _PARTS}
_SEARCH |= {f"{column}_min": f"Earliest day. {_FIELDS[column]}" for column in _DATES}
_SEARCH |= {f"{column}_max": f"Latest day. {_FIELDS[column]}" for column in _DATES}
_SEARCH |= {"page": "Which page of the results", "page_size": "Customers a page, 5 unless given"}
TOOLS = (
    Tool(
        "customer_relationship_manager_search_customers",
        "Finds customers that fit all that is given.",
        _SEARCH,
        search_customers,
    ),
    Tool(
        "customer_relationship_manager_update_customer",
        "Changes one field of a customer.",
        {**_ID, "field": f"One of: {', '.join(_FIELDS)}", "new_value": "What it shall be"},
        update_customer,
        ("customer_id", "field", "new_value"),
        writes=True,
    ),
    Tool(
        "customer_relationship_manager_add_customer",
        "Adds a customer.",
        _FIELDS,
        add_customer,
        ("customer_name", "assigned_to_email", "status"),
        writes=True,
    ),
    Tool(
        "customer_relationship_manager_delete_customer",
        "Deletes a customer.",
        _ID,
        delete_customer,
        ("customer_id",),
        writes=True,
    ),
)
