"""What the tools do to the databases is what the reference's do; what they cannot do they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascade.environments.tool_calls import Call
from cascade.environments.workplace.generated_office import generated_office
from cascade.environments.workplace.office import CUSTOMERS, EMAILS, EVENTS, NOW, TASKS, VISITS, Office
from cascade.environments.workplace.state import State
from cascade.environments.workplace.tables import Record, Table
from cascade.environments.workplace.tool import MAX_TEXT, moment
from cascade.environments.workplace.toolbox import SCHEMAS, TOOLS, carry_out, replay

ADA, BEN = "ada.abt@office.example", "ben.berg@office.example"


def records(columns: tuple[str, ...], *rows: tuple[str | None, ...]) -> list[Record]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


OFFICE = Office(
    (ADA, BEN),
    tuple(
        records(
            VISITS,
            ("2023-11-01", "0001", "3", "10", "direct", "True"),
            ("2023-11-01", "0002", "1", "5", "referral", "False"),
            ("2023-11-03", "0001", "2", "20", "direct", "True"),
        )
    ),
    emails=Table(
        EMAILS,
        records(
            EMAILS,
            ("00000002", "inbox", ADA, "Old plan", "2023-11-01 09:00:00", "The plan is old"),
            ("00000000", "inbox", BEN, "New plan", "2023-11-20 09:00:00", "The plan is new"),
            ("00000001", "inbox", ADA, "Lunch", "2023-11-10 09:00:00", "Soup?"),
        ),
    ),
    events=Table(
        EVENTS,
        records(
            EVENTS,
            ("00000001", "Review", ADA, "2023-12-04 09:00:00", "30"),
            ("00000000", "Planning", BEN, "2023-12-05 10:00:00", "60"),
        ),
        relabels=False,
    ),
    tasks=Table(
        TASKS,
        records(
            TASKS,
            ("00000000", "Test the form", ADA, "Backlog", "2023-12-01", "Design"),
            ("00000001", "Test the map", BEN, "In Review", "2023-12-02", "Back end"),
        ),
    ),
    customers=Table(
        CUSTOMERS,
        records(
            CUSTOMERS,
            ("00000000", BEN, "Carla Costa", "c@c.example", None, f"{NOW}", "Software", "Lead", None, None),
            ("00000001", ADA, "Denis Duval", "d@d.example", "555", "2023-11-09 23:59:00", "Training", "Won", None, "x"),
        ),
    ),
)


def shown(state: State, name: str, /, **arguments: Any) -> Any:
    """The output of a call; of one that is refused, its error in a tuple."""
    content = json.loads(carry_out(state, Call(name, arguments)))
    return content["output"] if "output" in content else (content["error"],)


def refused(state: State, name: str, /, **arguments: Any) -> bool:
    before = State(OFFICE)
    answer = shown(state, name, **arguments)
    assert state.equal(before) == dict.fromkeys(state.equal(before), True)
    return isinstance(answer, tuple)


@pytest.fixture
def state() -> State:
    return State(OFFICE)


def test_there_are_the_27_tools_of_the_reference() -> None:
    assert len(TOOLS) == 27
    assert sum(tool.writes for tool in TOOLS.values()) == 14
    for schema in SCHEMAS:
        parameters = schema["function"]["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])


def test_a_sent_email_is_the_last_row_with_the_next_number(state: State) -> None:
    shown(state, "email_send_email", recipient="X@Y.Example", subject="Hi", body="There")
    shown(state, "email_reply_email", email_id="00000001", body="Yes")
    shown(state, "email_forward_email", email_id="00000000", recipient=ADA)
    assert [tuple(row.values()) for row in state.emails.rows[3:]] == [
        ("3", "outbox", "x@y.example", "Hi", NOW, "There"),
        ("4", "outbox", ADA, "RE: Lunch", NOW, "Yes"),
        ("5", "outbox", ADA, "FW: New plan", NOW, "The plan is new"),
    ]
    assert len(OFFICE.emails.rows) == 3


def test_the_next_number_follows_the_id_that_sorts_last_as_text() -> None:
    office = Office((), (), Table(EMAILS, []), Table(EVENTS, [], False), Table(TASKS, []), Table(CUSTOMERS, []))
    state = State(office)
    for _ in range(11):
        shown(state, "email_send_email", recipient=ADA, subject="s", body="b")
    assert [row["email_id"] for row in state.emails.rows] == [*map(str, range(1, 11)), "10"]
    new = {"customer_name": "N", "assigned_to_email": ADA, "status": "Lead"}
    assert isinstance(shown(state, "customer_relationship_manager_add_customer", **new), tuple)  # none to count on from


def test_events_are_created_updated_and_deleted(state: State) -> None:
    new = {
        "event_name": "Talk",
        "participant_email": ADA.upper(),
        "event_start": "2023-12-06 09:00:00",
        "duration": "30",
    }
    assert shown(state, "calendar_create_event", **new) == "00000002"
    assert state.events.rows[-1] == {"event_id": "00000002", **new, "participant_email": ADA}
    shown(state, "calendar_update_event", event_id="00000001", field="participant_email", new_value=BEN.upper())
    assert state.events.rows[0]["participant_email"] == BEN
    shown(state, "calendar_delete_event", event_id="00000000")
    assert [row["event_id"] for row in state.events.rows] == ["00000001", "00000002"]


def test_tasks_and_customers_are_changed(state: State) -> None:
    task = {"task_name": "New", "assigned_to_email": ADA, "list_name": "Backlog", "due_date": "soon", "board": "Design"}
    assert shown(state, "project_management_create_task", **task) == "00000002"
    shown(state, "project_management_update_task", task_id="00000001", field="list_name", new_value="Completed")
    shown(state, "project_management_delete_task", task_id="00000000")
    assert [row["list_name"] for row in state.tasks.rows] == ["Completed", "Backlog"]
    customer = {"customer_name": "Eva", "assigned_to_email": ADA.upper(), "status": "Lead"}
    assert shown(state, "customer_relationship_manager_add_customer", **customer) == "00000002"
    added = {**dict.fromkeys(CUSTOMERS), **customer, "customer_id": "00000002", "assigned_to_email": ADA, "notes": ""}
    assert state.customers.rows[-1] == added
    shown(
        state, "customer_relationship_manager_update_customer", customer_id="00000000", field="status", new_value="Won"
    )
    shown(state, "customer_relationship_manager_delete_customer", customer_id="00000001")
    assert [row["status"] for row in state.customers.rows] == ["Won", "Lead"]


def test_a_plot_is_a_path(state: State) -> None:
    plot = {"time_min": "2023-10-01", "time_max": "2023-11-01", "value_to_plot": "user_engaged", "plot_type": "line"}
    path = "plots/2023-10-01_2023-11-01_user_engaged_line.png"
    assert shown(state, "analytics_create_plot", **plot) == path
    assert state.plots.rows == [{"file_path": path}]


def test_searches_page_the_latest_first(state: State) -> None:
    found = shown(state, "email_search_emails", query="PLAN", page_size=1)
    assert found["emails"][0]["subject"] == "New plan"
    assert found["pagination"] == {"total_emails": 2, "page": 1, "page_size": 1, "total_pages": 2}
    assert shown(state, "email_search_emails", query="plan", page_size=1, page=99)["emails"][0]["subject"] == "Old plan"
    assert (
        shown(state, "email_search_emails", date_min="2023-11-10", date_max="2023-11-10")["emails"][0]["body"]
        == "Soup?"
    )
    assert shown(state, "email_search_emails", query="no such") == "No emails found."
    events = shown(state, "calendar_search_events", query="ada", time_max="2023-12-04 09:00:00")["events"]
    assert [event["event_name"] for event in events] == ["Review"]
    assert [event["event_id"] for event in shown(state, "calendar_search_events")["events"]] == ["00000000", "00000001"]


def test_customers_are_found_by_parts_and_by_days_as_text(state: State) -> None:
    search = "customer_relationship_manager_search_customers"
    assert shown(state, search, status="won", customer_name="denis")["pagination"]["total_customers"] == 1
    assert shown(state, search, last_contact_date_max="2023-11-09") == "No customers found."
    assert shown(state, search, last_contact_date_max="2023-11-10")["customers"][0]["customer_id"] == "00000001"
    assert shown(state, search, follow_up_by_min="2000-01-01") == "No customers found."  # nobody has a date


def test_tasks_are_found_by_all_that_is_given(state: State) -> None:
    search = "project_management_search_tasks"
    assert len(shown(state, search, task_name="TEST")) == 2
    assert shown(state, search, task_name="test", assigned_to_email=ADA.upper())[0]["task_id"] == "00000000"
    assert shown(state, search, board="design", list_name="review") == []


def test_visits_are_counted_by_day(state: State) -> None:
    assert shown(state, "analytics_total_visits_count") == {"2023-11-01": 2, "2023-11-03": 1}
    assert shown(state, "analytics_engaged_users_count", time_max="2023-11-02") == {"2023-11-01": 1}
    counted = shown(state, "analytics_traffic_source_count", traffic_source="referral")
    assert counted == {"2023-11-01": 1, "2023-11-03": 0}
    assert shown(state, "analytics_get_average_session_duration") == {"2023-11-01": 7.5, "2023-11-03": 20.0}
    visits = shown(state, "analytics_get_visitor_information_by_id", visitor_id="0001")
    assert [visit["user_engaged"] for visit in visits] == [True, True]


def test_single_fields_and_addresses_are_looked_up(state: State) -> None:
    assert shown(state, "email_get_email_information_by_id", email_id="00000001", field="subject") == {
        "subject": "Lunch"
    }
    assert shown(state, "project_management_get_task_information_by_id", task_id="00000001", field="board") == {
        "board": "Back end"
    }
    assert shown(state, "calendar_get_event_information_by_id", event_id="00000001", field="duration") == {
        "duration": "30"
    }
    assert shown(state, "company_directory_find_email_address", name="ADA") == [ADA]
    assert shown(state, "company_directory_find_email_address", name="zoe") == []


EVENT = {"event_name": "T", "participant_email": ADA, "event_start": "2023-12-06", "duration": "30"}
TASK = {"task_name": "N", "assigned_to_email": ADA, "list_name": "Backlog", "due_date": "x", "board": "Design"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("no_such_tool", {}),
        ("email_send_email", {"recipient": ADA, "subject": "s"}),
        ("email_send_email", {"recipient": ADA, "subject": "s", "body": ""}),
        ("email_send_email", {"recipient": ADA, "subject": "s", "body": None}),
        ("email_send_email", {"recipient": ADA, "subject": "s", "body": 5}),
        ("email_send_email", {"recipient": ADA, "subject": "s", "body": "b", "cc": BEN}),
        ("email_send_email", {"recipient": ADA, "subject": "s", "body": "x" * (MAX_TEXT + 1)}),
        ("email_send_email", {"recipient": "ada", "subject": "s", "body": "b"}),
        ("email_delete_email", {"email_id": "1"}),
        ("email_delete_email", {"email_id": 1}),
        ("email_reply_email", {"email_id": "00000009", "body": "b"}),
        ("email_forward_email", {"email_id": "00000001", "recipient": "nobody"}),
        ("email_search_emails", {"query": "x", "page_size": 0}),
        ("email_search_emails", {"query": "x", "page": "1"}),
        ("email_search_emails", {"query": "plan", "page_size": 10**9}),
        ("email_search_emails", {"query": "plan", "page": True}),
        ("email_search_emails", {"date_min": "someday"}),
        ("email_search_emails", {"query": "e " * 1000}),
        ("email_get_email_information_by_id", {"email_id": "00000001", "field": "colour"}),
        ("calendar_create_event", {**EVENT, "event_start": "someday"}),
        ("calendar_create_event", {**EVENT, "duration": "0"}),
        ("calendar_create_event", {**EVENT, "duration": "half an hour"}),
        ("calendar_create_event", {**EVENT, "duration": 30}),
        ("calendar_update_event", {"event_id": "00000001", "field": "event_id", "new_value": "00000009"}),
        ("calendar_update_event", {"event_id": "00000001", "field": "duration", "new_value": "-1"}),
        ("calendar_update_event", {"event_id": "1", "field": "duration", "new_value": "10"}),
        ("calendar_delete_event", {"event_id": "00000009"}),
        ("calendar_search_events", {"time_min": "9" * 100}),
        ("analytics_create_plot", {"time_min": "a", "time_max": "b", "value_to_plot": "c", "plot_type": "bar"}),
        ("analytics_get_visitor_information_by_id", {"visitor_id": "9999"}),
        ("project_management_create_task", {**TASK, "assigned_to_email": "new@office.example"}),
        ("project_management_create_task", {**TASK, "board": "design"}),
        ("project_management_update_task", {"task_id": "00000000", "field": "list_name", "new_value": "backlog"}),
        ("project_management_update_task", {"task_id": "00000000", "field": "colour", "new_value": "red"}),
        (
            "project_management_update_task",
            {"task_id": "00000000", "field": "assigned_to_email", "new_value": "new@office.example"},
        ),
        ("project_management_update_task", {"task_id": "9", "field": "due_date", "new_value": "x"}),
        ("project_management_delete_task", {"task_id": "9"}),
        ("project_management_search_tasks", {}),
        ("project_management_search_tasks", {"assigned_to_email": "ada"}),
        ("customer_relationship_manager_search_customers", {"page": 1}),
        ("customer_relationship_manager_add_customer", {"customer_name": "E", "assigned_to_email": ADA}),
        (
            "customer_relationship_manager_update_customer",
            {"customer_id": "00000000", "field": "status", "new_value": "won"},
        ),
        (
            "customer_relationship_manager_update_customer",
            {"customer_id": "00000000", "field": "age", "new_value": "9"},
        ),
        ("customer_relationship_manager_delete_customer", {"customer_id": "9"}),
        ("company_directory_find_email_address", {}),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(state: State, name: str, arguments: dict[str, Any]) -> None:
    assert refused(state, name, **arguments)


def test_replay_leaves_what_carrying_out_leaves_and_counts_what_was_refused(state: State) -> None:
    calls = [
        Call("email_send_email", {"recipient": ADA, "subject": "s", "body": "b"}),
        Call("email_search_emails", {"query": "plan"}),
        Call("email_search_emails", {"size": 3}),
        Call("email_delete_email", {"email_id": "9"}),
        Call("", {}, "cannot be read"),
    ]
    assert replay(state, calls) == 3
    other = State(OFFICE)
    for call in calls:
        carry_out(other, call)
    assert all(state.equal(other).values())


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({"subject": "S", "body": "b"}, {"subject": "s", "body": "B"}, True),
        ({"subject": "s", "body": "b"}, {"subject": "s", "body": "b "}, False),
    ],
)
def test_case_is_compared_in_status_list_and_board_only(one: dict[str, str], two: dict[str, str], same: bool) -> None:
    left, right = State(OFFICE), State(OFFICE)
    shown(left, "email_send_email", recipient=ADA, **one)
    shown(right, "email_send_email", recipient=ADA, **two)
    assert left.equal(right)["email"] is same
    for state, status in ((left, "Lead"), (right, "lead")):
        shown(
            state, "customer_relationship_manager_add_customer", customer_name="E", assigned_to_email=ADA, status=status
        )
    assert left.equal(right)["customer_relationship_manager"] is False


def test_the_order_of_new_rows_counts_and_that_of_changes_does_not() -> None:
    first = Call("project_management_update_task", {"task_id": "00000000", "field": "due_date", "new_value": "x"})
    second = Call("project_management_update_task", {"task_id": "00000001", "field": "due_date", "new_value": "y"})
    mails = [Call("email_send_email", {"recipient": ADA, "subject": subject, "body": "b"}) for subject in "st"]
    left, right = State(OFFICE), State(OFFICE)
    replay(left, [first, second, *mails])
    replay(right, [second, first, *reversed(mails)])
    assert left.equal(right)["project_management"] is True
    assert left.equal(right)["email"] is False


def test_a_deletion_before_and_behind_a_new_email_differ_as_in_the_reference() -> None:
    """Its data frames are compared with their index, which sending numbers anew and deleting leaves with a gap."""
    send = Call("email_send_email", {"recipient": ADA, "subject": "s", "body": "b"})
    delete = Call("email_delete_email", {"email_id": "00000000"})
    left, right = State(OFFICE), State(OFFICE)
    replay(left, [send, delete])
    replay(right, [delete, send])
    assert left.emails.rows == right.emails.rows
    assert left.equal(right)["email"] is False


def test_an_undone_change_is_none(state: State) -> None:
    replay(
        state,
        [
            Call("email_send_email", {"recipient": ADA, "subject": "s", "body": "b"}),
            Call("email_delete_email", {"email_id": "3"}),
            Call("calendar_create_event", EVENT),
            Call("calendar_delete_event", {"event_id": "00000002"}),
        ],
    )
    assert all(state.equal(State(OFFICE)).values())


@pytest.mark.parametrize(
    "text",
    [
        "2023-12-01",
        "2023-12-01 09:00",
        "2023-12-1 9:00:00",
        "2023-12-01T09:00:00Z",
        "December 1, 2023",
        "Dec 1 2023 9 AM",
        "9am",
    ],
)
def test_dates_are_read_in_common_forms(text: str) -> None:
    assert moment(text) is not None


@pytest.mark.parametrize("text", ["", "tomorrow", "2023-13-01", "9" * 5000, "\x00", "\ud800"])
def test_what_is_no_date_is_none(text: str) -> None:
    assert moment(text) is None


def test_the_generated_office_is_the_same_every_time() -> None:
    generated_office.cache_clear()
    first = generated_office()
    generated_office.cache_clear()
    assert generated_office() is not first
    assert generated_office().emails.rows == first.emails.rows
    assert generated_office().customers.rows == first.customers.rows
