"""Assignments with the customers."""

from __future__ import annotations

import random
from datetime import timedelta

from cascade.environments.workplace.assignments.assignment import (
    Assignment,
    Draw,
    ToolCall,
    call,
    coming_workday,
    counted,
    find_address,
    iso_day,
    past_day,
    said_day,
)
from cascade.environments.workplace.customers import PRODUCTS, STATUSES
from cascade.environments.workplace.generated_office import SALES, first_name
from cascade.environments.workplace.office import Office
from cascade.environments.workplace.tables import Record

_NEW = ("Ulla Brandt", "Viktor Sand", "Wanda Rossi", "Xenia Holm", "Yves Laurent", "Zoe Kraus")


def add(rng: random.Random, office: Office) -> Assignment | None:
    name, who, product = rng.choice(_NEW), rng.choice(SALES), rng.choice(PRODUCTS)
    first = first_name(who)
    request = f"Add {name} to the customers as a lead interested in {product.lower()}, and assign {first} to them."
    new = call(
        "customer_relationship_manager_add_customer",
        customer_name=name,
        assigned_to_email=who,
        status="Lead",
        product_interest=product,
    )
    return Assignment(request, [[find_address(first)], [new]], f"{name} is now a lead of {first}.")


def delete_by_status(rng: random.Random, office: Office) -> Assignment | None:
    who, status, product = rng.choice(SALES), rng.choice(("Lost", "Won")), rng.choice(PRODUCTS)
    found = _customers(office, assigned_to_email=who, status=status, product_interest=product)
    if not found:
        return None
    first = first_name(who)
    request = f"Delete all of {first}'s customers with the status {status} who are interested in {product.lower()}."
    deletions = [call("customer_relationship_manager_delete_customer", customer_id=row["customer_id"]) for row in found]
    look = _search(assigned_to_email=who, status=status, product_interest=product)
    return Assignment(
        request, [[find_address(first)], [look], deletions], f"{counted(len(found), 'customer')} deleted."
    )


def hand_over(rng: random.Random, office: Office) -> Assignment | None:
    (old, new), status, product = rng.sample(SALES, 2), rng.choice(("Lead", "Qualified")), rng.choice(PRODUCTS)
    found = _customers(office, assigned_to_email=old, status=status, product_interest=product)
    if not found:
        return None
    names = first_name(old), first_name(new)
    request = (
        f"{names[1]} takes over all of {names[0]}'s customers with the status {status} who are interested in "
        f"{product.lower()}. Please reassign them."
    )
    look = _search(assigned_to_email=old, status=status, product_interest=product)
    moves = [_set(row, "assigned_to_email", new) for row in found]
    turns = [[find_address(name) for name in names], [look], moves]
    return Assignment(request, turns, f"{names[1]} has {counted(len(found), 'customer')} more.")


def give_up(rng: random.Random, office: Office) -> Assignment | None:
    """A condition: where nobody fits, nothing may be changed."""
    product, before = rng.choice(PRODUCTS), past_day(rng)
    found = [
        row
        for row in _customers(office, status="Proposal", product_interest=product)
        if row["last_contact_date"] < iso_day(before)
    ]
    request = (
        f"Move every customer with a proposal for {product.lower()} whom we last contacted before {said_day(before)} "
        "to Lost. If there is none, leave everything as it is."
    )
    look = _search(status="Proposal", product_interest=product, last_contact_date_max=iso_day(before))
    if not found:
        return Assignment(request, [[look]], "There is none, so I have changed nothing.")
    moves = [_set(row, "status", "Lost") for row in found]
    return Assignment(request, [[look], moves], f"{counted(len(found), 'customer')} moved to Lost.")


def change_status(rng: random.Random, office: Office) -> Assignment | None:
    row, status = rng.choice(office.customers.rows), rng.choice(STATUSES)
    if row["status"] == status:
        return None
    ask = rng.choice(("Set the status of {n} to {s}.", "{n} is now {s}, please update the customer data."))
    request = ask.format(n=row["customer_name"], s=status)
    turns = [[_search(customer_name=row["customer_name"])], [_set(row, "status", status)]]
    return Assignment(request, turns, f"{row['customer_name']} now has the status {status}.")


def meet_owner(rng: random.Random, office: Office) -> Assignment | None:
    """Two databases: who looks after the customer is only known there."""
    row, start = rng.choice(office.customers.rows), coming_workday(rng) + timedelta(hours=rng.randint(9, 16))
    title = f"About {row['customer_name']}"
    request = (
        f"Book 30 minutes on {said_day(start)} at {start:%H:%M} with the colleague who looks after "
        f"{row['customer_name']}. Call it '{title}'."
    )
    new = call(
        "calendar_create_event",
        event_name=title,
        participant_email=row["assigned_to_email"],
        event_start=str(start),
        duration="30",
    )
    turns = [[_search(customer_name=row["customer_name"])], [new]]
    return Assignment(request, turns, f"The meeting with {first_name(row['assigned_to_email'])} is booked.")


def _customers(office: Office, **fields: str) -> list[Record]:
    return [row for row in office.customers.rows if fields.items() <= row.items()]


def _search(**fields: str) -> ToolCall:
    return call("customer_relationship_manager_search_customers", **fields, page_size=50)


def _set(customer: Record, field: str, value: str) -> ToolCall:
    return call(
        "customer_relationship_manager_update_customer",
        customer_id=customer["customer_id"],
        field=field,
        new_value=value,
    )


DRAWS: tuple[Draw, ...] = (add, delete_by_status, hand_over, give_up, change_status, meet_owner)
