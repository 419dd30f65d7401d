"""Assignments in an office: gold earns 1, and only the state that was asked for does."""

from __future__ import annotations

import csv
import itertools
import json
import random
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cascade.data.characters import character_tokenizer
from cascade.data.chat import render_conversation
from cascade.data.conversations import Conversation, conversation_of
from cascade.data.rendering import bundled_template
from cascade.environments.attempts import attempt_of
from cascade.environments.tool_calls import call_text, calls_of
from cascade.environments.workplace import Workplace
from cascade.environments.workplace.assignments.drawing import DRAWS, generated_records
from cascade.environments.workplace.environment import FETCHED, MAX_CALLS
from cascade.environments.workplace.generated_office import generated_office
from cascade.environments.workplace.office import DIRECTORY, FILES, Office, read_office
from cascade.environments.workplace.toolbox import SCHEMAS
from cascade.errors import ConfigError, DataError
from cascade.ports import MultiTurn, OffersTools, ScoresEpisodes
from cascade.types import Row
from data.workplace import INSIDE, main

WORKPLACE = Workplace(generated_rows=600, validation_rows=60, test_rows=60)
ROWS = [row for split in ("train", "validation", "test") for row in WORKPLACE.rows(split)]
TASK = generated_office().tasks.rows[0]
MAIL = {"name": "email_send_email", "arguments": {"recipient": "a@b.example", "subject": "S", "body": "B"}}
DELETE = {"name": "project_management_delete_task", "arguments": {"task_id": TASK["task_id"]}}
LOOK = {"name": "email_search_emails", "arguments": {"query": "plan"}}
DELETIONS = [
    {"name": "email_delete_email", "arguments": {"email_id": row["email_id"]}} for row in generated_office().emails.rows
]


def row(*truth: dict[str, Any], environment: Workplace = WORKPLACE) -> Row:
    record = {"prompt": "Do it", "ground_truth": list(truth), "office": "generated"}
    return Row("workplace/r", "tool_use", "workplace", environment.read(record))


def reward(task: Row, *answers: str) -> float:
    return WORKPLACE.score_episode(task, answers).reward


def answers_of(task: Row) -> list[str]:
    shown = WORKPLACE.demonstration(task)["messages"]
    return [message["content"] for message in shown if message["role"] == "assistant"]


def changes(task: Row) -> bool:
    return bool(task.data["ground_truth"])


def test_gold_scores_one_on_every_row() -> None:
    assert {WORKPLACE.score(task, WORKPLACE.gold(task)).reward for task in ROWS} == {1.0}


def test_every_demonstration_is_an_episode_without_a_refusal_that_earns_one() -> None:
    for task in ROWS:
        shown, answers = WORKPLACE.demonstration(task)["messages"], answers_of(task)
        score = WORKPLACE.score_episode(task, answers)
        assert (score.reward, score.parts["refused"], score.parts["answered"]) == (1.0, 0.0, 1.0)
        assert len(answers) <= WORKPLACE.max_turns
        replies = [message for message in shown if message["role"] == "tool"]
        assert not any(message["content"].startswith('{"error"') for message in replies)
        asked = [WORKPLACE.respond(task, answers[: turn + 1]) for turn in range(len(answers))]
        assert [message for reply in asked for message in reply or []] == replies
        assert asked[-1] is None


def test_what_a_demonstration_changes_it_has_looked_up() -> None:
    """Every id and address of a call stands in what was shown before, so the demonstration guesses nothing."""
    for task in ROWS:
        seen = ""
        for message in WORKPLACE.demonstration(task)["messages"]:
            if message["role"] == "assistant":
                for call in calls_of(message["content"]):
                    known = [value for key, value in call.arguments.items() if key.endswith("_id")]
                    known += [value for value in call.arguments.values() if "@" in str(value)]
                    assert all(str(value) in seen for value in known), (call, task.data["messages"][-1])
            else:
                seen += message["content"]


def test_demonstrations_are_rendered_with_calls_and_results() -> None:
    shown = conversation_of(WORKPLACE.demonstration(ROWS[0]))
    assert isinstance(shown, Conversation)
    tokenizer = character_tokenizer("\n" + "".join(map(chr, range(32, 127))), bundled_template("characters"))
    tokens, mask = render_conversation(tokenizer, shown.messages, tools=None)
    assert 0 < sum(mask) < len(tokens)


def test_every_kind_of_assignment_is_there_several_times_and_over_all_databases() -> None:
    assert len(DRAWS) >= 12
    called = [call["name"] for task in ROWS for call in task.data["ground_truth"]]
    for database in ("email", "calendar", "analytics", "project_management", "customer_relationship_manager"):
        assert sum(name.startswith(database) for name in called) >= 20
    for kind in DRAWS:
        rng, office = random.Random(0), generated_office()
        requests = {drawn.request for _ in range(60) if (drawn := kind(rng, office)) is not None}
        assert len(requests) >= 5, kind
    assert any(not changes(task) for task in ROWS)
    assert any(len(task.data["ground_truth"]) > 2 for task in ROWS)


def test_splits_share_no_request_and_held_out_rows_are_the_same_for_every_seed() -> None:
    requests = [task.data["messages"][-1]["content"] for task in ROWS]
    assert len(set(requests)) == len(requests) == 600
    other = Workplace(seed=5, generated_rows=600, validation_rows=60, test_rows=60, train_rows=50)
    assert [task.id for task in other.rows("test")] == [task.id for task in WORKPLACE.rows("test")]
    assert len(other.rows("train")) == 50
    assert generated_records(20) == generated_records(40)[:20]


def test_what_changes_nothing_earns_only_where_nothing_is_to_be_changed_and_silence_never() -> None:
    for task in ROWS:
        assert reward(task, "Done, as you asked.") == float(not changes(task))
        assert reward(task, "") == reward(task, "", " \n") == 0.0
        assert reward(task, call_text([LOOK])) == float(not changes(task))


def test_every_other_gold_scores_zero() -> None:
    for task, other in itertools.pairwise(ROWS):
        if task.data["ground_truth"] != other.data["ground_truth"]:
            assert reward(task, WORKPLACE.gold(other)) == float(not changes(other) and not changes(task))


def test_side_effects_cost_the_reward_and_undoing_them_gives_it_back() -> None:
    task, quiet = row(DELETE), row(LOOK)
    assert reward(task, call_text([DELETE])) == 1.0
    assert reward(task, call_text([DELETE, MAIL])) == 0.0
    assert reward(task, call_text([DELETE, DELETIONS[0]])) == 0.0
    undo = {"name": "email_delete_email", "arguments": {"email_id": "240"}}
    assert reward(task, call_text([MAIL, DELETE]), call_text([undo]), "Done.") == 1.0
    assert reward(quiet, call_text([LOOK]), "Nothing to do.") == 1.0
    assert reward(quiet, call_text([MAIL]), "Nothing to do.") == 0.0
    assert reward(quiet, call_text([LOOK])) == 1.0  # as in the reference: it looked
    assert reward(quiet, call_text([{"name": "no_such_tool", "arguments": {}}])) == 0.0


def test_made_up_ids_repeated_calls_and_everything_at_once_earn_nothing() -> None:
    task = row(DELETE)
    wrong = {"name": DELETE["name"], "arguments": {"task_id": "99999999"}}
    assert reward(task, call_text([wrong])) == 0.0
    assert reward(row(MAIL), call_text([MAIL, MAIL])) == 0.0
    every = [
        {"name": DELETE["name"], "arguments": {"task_id": one["task_id"]}} for one in generated_office().tasks.rows
    ]
    assert reward(task, call_text(every)) == 0.0
    assert reward(task, call_text([wrong]), call_text([DELETE]), "Done.") == 1.0  # a failed try costs nothing


def test_calls_in_the_reasoning_do_not_count() -> None:
    task = row(DELETE)
    hidden = attempt_of(f"<think>{call_text([DELETE])}</think>I have deleted it.")
    assert reward(task, *hidden.answers) == 0.0
    assert WORKPLACE.respond(task, hidden.answers) is None
    harmless = attempt_of(f"<think>{call_text([MAIL])}</think>{call_text([DELETE])}")
    assert reward(task, *harmless.answers) == 1.0


def test_thousands_of_calls_are_refused_as_a_whole_and_in_time() -> None:
    task = row(DELETE)
    started = time.perf_counter()
    for answers in ([call_text([DELETE] + [MAIL] * 10_000)], [call_text([MAIL] * 200)] * 20):
        assert reward(task, *answers) == 0.0
        shown = WORKPLACE.respond(task, answers)
        assert shown
        assert all('"error"' in message.get("content", "") for message in shown)
    assert WORKPLACE.score_episode(task, [call_text([MAIL] * 200)] * 20).parts["calls"] > MAX_CALLS
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\x00",
        "\ud800<tool_call>",
        "x" * 5_000_000,
        "<tool_call>" * 400_000,
        "<tool_call>" + '{"a":' * 100_000,
        call_text([{"name": "email_search_emails", "arguments": {"query": "e " * 10_000}}]),
        call_text([{"name": "email_search_emails", "arguments": {"query": "(a+)+$"}}] * 200),
        call_text(
            [{"name": "calendar_create_event", "arguments": {"duration": "9" * 5000, "event_start": "1" * 5000}}]
        ),
        call_text([{"name": "x" * 100_000, "arguments": {}}]),
        call_text([{"name": "__import__", "arguments": {"self": 1, "state": 2}}]),
        call_text([{"name": "email_send_email", "arguments": {"state": "s", "recipient": "a@b.c"}}]),
    ],
)
def test_hostile_answers_earn_nothing_and_are_answered_in_time(answer: str) -> None:
    started = time.perf_counter()
    assert reward(row(DELETE), answer) == 0.0
    WORKPLACE.respond(row(DELETE), [answer])
    assert time.perf_counter() - started < 2


def test_a_refused_or_unreadable_call_is_answered_by_a_message() -> None:
    task = row(DELETE)
    answer = f"<tool_call>{{}}</tool_call>{call_text([{'name': 'nope', 'arguments': {}}, LOOK])}"
    unreadable, unknown, found = WORKPLACE.respond(task, [answer]) or []
    assert "cannot be read" in json.loads(unreadable.get("content", ""))["error"]
    assert "no tool 'nope'" in json.loads(unknown.get("content", ""))["error"]
    assert "emails" in json.loads(found.get("content", ""))["output"]
    assert WORKPLACE.score_episode(task, [answer]).parts["refused"] == 2.0


def test_what_a_turn_sees_follows_from_all_turns_before_it() -> None:
    task, name = row(DELETE), "project_management_get_task_information_by_id"
    look = call_text([{"name": name, "arguments": {"task_id": TASK["task_id"], "field": "board"}}])
    assert json.loads((WORKPLACE.respond(task, [look]) or [{}])[0].get("content", "")) == {
        "output": {"board": TASK["board"]}
    }
    gone = json.loads((WORKPLACE.respond(task, [call_text([DELETE]), look]) or [{}])[0].get("content", ""))
    assert gone == {"error": "Task not found."}


def test_both_forms_of_calls_and_messages_as_completions_score_alike() -> None:
    task = row(DELETE, MAIL)
    mail = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in MAIL["arguments"].items())
    xml = f"<tool_call>\n<function=email_send_email>\n{mail}</function>\n</tool_call>"
    assert reward(task, call_text([DELETE]) + xml) == 1.0
    api = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "First delete"}]},
        {"type": "function_call", "name": DELETE["name"], "arguments": json.dumps(DELETE["arguments"]), "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "ok"},
        {"type": "function_call", "name": MAIL["name"], "arguments": json.dumps(MAIL["arguments"]), "call_id": "2"},
        {"type": "function_call_output", "call_id": "2", "output": "ok"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    ]
    chat = [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": DELETE}]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": MAIL}]},
    ]
    for completion in (api, chat):
        assert reward(task, *attempt_of(completion).answers) == 1.0


def test_gold_and_demonstrations_may_have_the_paper_s_form() -> None:
    papers = Workplace(generated_rows=100, test_rows=20, validation_rows=20, form="xml")
    for task in papers.rows("train"):
        assert papers.score(task, papers.gold(task)).reward == 1.0
        shown = [message["content"] for message in papers.demonstration(task)["messages"]]
        assert sum("<function=" in content for content in shown) == len([turn for turn in task.data["turns"] if turn])
        assert not any('<tool_call>{"name"' in content for content in shown)


def test_parts_name_the_databases() -> None:
    parts = WORKPLACE.score_episode(row(DELETE), [call_text([MAIL, LOOK]), "Done."]).parts
    assert parts == {
        "email": 0.0,
        "calendar": 1.0,
        "analytics": 1.0,
        "project_management": 0.0,
        "customer_relationship_manager": 1.0,
        "answered": 1.0,
        "calls": 2.0,
        "turns": 2.0,
        "refused": 0.0,
        "correct": 0.0,
    }


def test_it_is_an_environment_of_several_turns_with_tools() -> None:
    for protocol in (MultiTurn, ScoresEpisodes, OffersTools):
        assert isinstance(WORKPLACE, protocol)
    assert WORKPLACE.tools(row(DELETE)) == SCHEMAS


def test_five_hundred_episodes_are_scored_in_a_few_seconds() -> None:
    episodes = [(task, answers_of(task)) for task in ROWS[:250]]
    started = time.perf_counter()
    for task, answers in episodes * 2:
        WORKPLACE.score_episode(task, answers)
    assert time.perf_counter() - started < 5  # alone on a core it takes 0.4


def write_office(folder: Path, office: Office) -> None:
    tables = (office.emails.rows, office.events.rows, office.visits, office.tasks.rows, office.customers.rows)
    for (name, columns), rows in zip(FILES.items(), tables, strict=True):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    (folder / DIRECTORY).write_text("\n".join(office.staff))


def nemo_gym_record(*truth: dict[str, Any]) -> dict[str, Any]:
    calls = [{"name": call["name"], "arguments": json.dumps(call["arguments"])} for call in truth]
    tool = {"type": "function", "name": "email_send_email", "parameters": {"type": "object", "properties": {}}}
    asked = {"input": [{"role": "user", "content": "Do it"}], "tools": [tool], "parallel_tool_calls": False}
    named = {"category": "workplace_assistant_email", "environment_name": "workplace_assistant"}
    return {"id": 3, "responses_create_params": asked, "ground_truth": calls, **named}


def test_an_office_read_from_files_is_the_one_written(tmp_path: Path) -> None:
    write_office(tmp_path, generated_office())
    found, expected = read_office(tmp_path), generated_office()
    assert found.staff == expected.staff
    assert found.visits == expected.visits
    for table in ("emails", "events", "tasks", "customers"):
        assert getattr(found, table).rows == getattr(expected, table).rows
    assert not found.events.relabels
    for name in (*FILES, DIRECTORY):  # as they lie in NeMo-Gym's own folder
        inner = tmp_path / "csv_data" / ("raw" if name == DIRECTORY else "processed")
        inner.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(inner / name)
    assert read_office(tmp_path / "csv_data").staff == expected.staff


def test_rows_of_nemo_gym_speak_of_the_fetched_databases(tmp_path: Path) -> None:
    write_office(tmp_path, generated_office())
    lines = [nemo_gym_record(DELETE), nemo_gym_record(MAIL, DELETE), nemo_gym_record()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    environment = Workplace(test=str(tmp_path / "rows.jsonl"), database=str(tmp_path))
    rows = environment.rows("test")
    assert len(rows) == 3
    assert [environment.score(task, environment.gold(task)).reward for task in rows] == [1.0] * 3
    assert [environment.score(task, "Done.").reward for task in rows] == [0.0, 0.0, 1.0]
    assert (environment.tools(rows[0]) or [])[0]["function"]["name"] == "email_send_email"
    elsewhere = Workplace(test=str(tmp_path / "rows.jsonl"), database=f"{tmp_path}/.")
    assert [task.id for task in elsewhere.rows("test")] == [task.id for task in rows]


def test_without_the_databases_the_error_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(nemo_gym_record(DELETE)))
    with pytest.raises(DataError, match=r"python -m data\.workplace"):
        Workplace(test=str(tmp_path / "rows.jsonl"), database=str(tmp_path / "nowhere")).rows("test")
    (tmp_path / "emails.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns"):
        read_office(tmp_path)


@pytest.mark.parametrize(
    "truth",
    [
        None,
        "soon",
        {"name": "x"},
        ["x"],
        [{"name": "no_such_tool", "arguments": {}}],
        [{"name": MAIL["name"], "arguments": "x"}],
    ],
)
def test_a_malformed_ground_truth_is_an_error_of_the_data(truth: Any) -> None:
    with pytest.raises(DataError):
        WORKPLACE.read({"prompt": "Do it", "ground_truth": truth, "office": "generated"})


def test_parameters_are_checked() -> None:
    for params in ({"generated_rows": 0}, {"max_turns": 0}, {"test_rows": 0}):
        with pytest.raises(ConfigError):
            Workplace(**params)


def test_the_command_extracts_the_databases_of_a_wheel_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, wheel = tmp_path / "source", tmp_path / "out", tmp_path / "nemo_gym.whl"
    source.mkdir()
    write_office(source, generated_office())
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*FILES, DIRECTORY):
            archive.write(source / name, str(INSIDE / ("raw" if name == DIRECTORY else "processed") / name))
    assert main(["--out", str(out), "--wheel", str(wheel)]) == 0
    assert "240 emails" in capsys.readouterr().out
    wheel.unlink()
    assert main(["--out", str(out), "--wheel", str(wheel)]) == 0  # complete: left alone
    assert main(["--out", str(tmp_path / "other"), "--wheel", str(wheel)]) == 1
    assert "no workplace databases" in capsys.readouterr().err


@pytest.mark.skipif(not (FETCHED / "emails.csv").is_file(), reason="`python -m data.workplace` has not been run")
def test_nvidias_databases_have_their_published_sizes() -> None:
    office = read_office(FETCHED)
    tables = (office.emails, office.events, office.tasks, office.customers)
    assert [len(table.rows) for table in tables] == [500, 300, 300, 200]
    assert len(office.visits) == 1000
