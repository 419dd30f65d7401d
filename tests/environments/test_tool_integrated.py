"""Maths with Python: calls run in the sandbox, replies follow from the answers alone, and the last word is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cascade.config import EnvironmentConfig
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environment
from cascade.environments.maths import Maths
from cascade.environments.python_tool import SILENT, cut, without_calls
from cascade.environments.tool_calls import call_text, xml_text
from cascade.errors import ConfigError
from cascade.ports import Bounded, MultiTurn, OffersTools, Waits
from cascade.types import Row
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.local import LocalVerifiers
from cascade.verification.routing import is_bounded

CONFIG = EnvironmentConfig(
    kind="maths", domain="math", params={"tool_integrated": True, "call_time_s": 2.0, "packages": [], "max_calls": 5}
)


@pytest.fixture
def maths() -> Iterator[Maths]:
    made = build_environment("maths", CONFIG, 0)
    assert isinstance(made, Maths)
    yield made
    made._live.close()


def row_of(environment: Maths, **more: Any) -> Row:
    data = environment.read({"question": "What is 6 times 7?", "expected_answer": "42", **more})
    return Row("maths/1", "math", "maths", data)


def call(code: Any, name: str = "python", **more: Any) -> str:
    return call_text([{"name": name, "arguments": {"code": code, **more}}])


def said(environment: Maths, *answers: str, row: Row | None = None) -> list[str]:
    replies = environment.respond(row or row_of(environment), answers) or ()
    assert all(reply.get("role") == "tool" for reply in replies)
    return [str(reply.get("content")) for reply in replies]


def test_a_call_is_run_and_answered_in_either_form(maths: Maths) -> None:
    assert said(maths, f"Let me see.\n{call('6 * 7')}") == ["42"]
    written = xml_text([{"name": "python", "arguments": {"code": "x = 2\nprint(x)"}}])
    assert said(maths, written) == ["2"]


def test_variables_last_through_the_episode_and_no_further(maths: Maths) -> None:
    first, second = call("x = 40"), call("x + 2")
    assert said(maths, first) == [SILENT]
    assert said(maths, first, second) == ["42"]
    assert "NameError" in said(maths, second)[0]


def test_a_reply_follows_from_the_answers_alone_whether_the_session_is_there_or_not(maths: Maths) -> None:
    answers = [call("x = [1]"), call("x.append(2); 1 / 0"), call("while True: x[0] += 1"), call("len(x)")]
    live = [said(maths, *answers[:turn]) for turn in range(1, 5)]
    maths._live.close()
    assert said(maths, *answers) == live[-1] == ["2"]
    again = [said(maths, *answers[:turn]) for turn in range(1, 5)]
    assert again == live


def test_two_rollouts_that_began_alike_do_not_share_variables(maths: Maths) -> None:
    first = call("x = 1")
    for _ in range(2):
        said(maths, first)
    assert said(maths, first, call("x += 1; x")) == ["2"]
    assert said(maths, first, call("x += 5; x")) == ["6"]
    assert said(maths, first, call("x")) == ["1"]


def test_several_calls_of_a_turn_are_made_in_order(maths: Maths) -> None:
    assert said(maths, call("x = 3") + call("x * 2") + call("x = x + 1\nx")) == [SILENT, "6", "4"]


def test_calls_that_cannot_be_made_are_answered_and_the_episode_goes_on(maths: Maths) -> None:
    for bad in (call("1", name="shell"), call(5), call("1", other=2), "<tool_call>{}</tool_call>", "<tool_call>"):
        assert said(maths, bad)[0].startswith("Error: ")
    assert said(maths, call("import os; os._exit(1)"))[0].startswith("[its process ended")
    assert said(maths, call("while True: pass"))[0].startswith("[ended after 2 s")


def test_the_episode_has_so_many_calls_and_turns(maths: Maths) -> None:
    refused = "Error: the 5 calls that there are have been made. Give the answer."
    answers = [call(f"n = {number}; n") for number in range(5)]
    assert said(maths, *answers) == ["4"]
    assert said(maths, *answers, call("n")) == [refused]
    assert said(maths, call("1") * 7)[4:] == [
        "1",
        *["Error: the 5 calls that there are have been made. Give the answer."] * 2,
    ]
    assert maths.max_turns == 6


def test_a_turn_without_a_call_ends_the_episode_and_its_session(maths: Maths) -> None:
    said(maths, call("x = 1"))
    assert len(maths._live) == 1
    assert maths.respond(row_of(maths), [call("x = 1"), r"It is \boxed{42}."]) is None
    assert len(maths._live) == 0


@pytest.mark.parametrize(
    "answer, reward",
    [
        (r"\boxed{42}", 1.0),
        (r"\boxed{41}", 0.0),
        ("The answer is 42.", 1.0),
        (call("print(42)"), 0.0),
        (call(r"'\\boxed{42}'"), 0.0),
        (f"Let me compute.\n{call('42')}", 0.0),
        (rf"\boxed{{42}} {call('41')}", 1.0),
    ],
)
def test_what_the_last_turn_says_is_judged_and_not_its_code(maths: Maths, answer: str, reward: float) -> None:
    assert maths.score(row_of(maths), answer).reward == reward


def test_replies_are_cut_in_the_middle() -> None:
    assert cut("x" * 100, 100) == "x" * 100
    assert cut("a" * 60 + "b" * 60, 100) == f"{'a' * 50}\n[20 characters left out]\n{'b' * 50}"


def test_text_around_calls_is_kept() -> None:
    assert without_calls("a<tool_call>b</tool_call>c<tool_call>d") == "ac"
    assert without_calls("no call") == "no call"


def test_rows_of_nemo_gym_keep_their_own_tool(maths: Maths) -> None:
    name = "stateful_python_code_exec"
    tool = {
        "type": "function",
        "name": name,
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
    }
    row = row_of(maths, responses_create_params={"input": [{"role": "user", "content": "?"}], "tools": [tool]})
    assert [shown["function"]["name"] for shown in maths.tools(row) or ()] == [name]
    assert said(maths, call("6 * 7", name=name), row=row) == ["42"]
    assert [shown["function"]["name"] for shown in maths.tools(row_of(maths)) or ()] == ["python"]


def test_turns_are_answered_in_threads_and_answers_judged_in_workers(maths: Maths) -> None:
    assert isinstance(maths, MultiTurn)
    assert isinstance(maths, OffersTools)
    assert isinstance(maths, Waits)
    assert isinstance(maths, Bounded)
    assert is_bounded(maths)
    verifiers = LocalVerifiers({"maths": maths}, {"maths": EnvironmentSpec("maths", CONFIG, 0)}, workers=1)
    try:
        attempt = attempt_at([call("6 * 7"), r"\boxed{42}"])
        ((found,),) = verifiers.verify([Job("maths", row_of(maths), (attempt,))])
        assert found.score
        assert found.score.reward == 1.0
        assert verifiers.metrics()["verifiers/run_s"] > 0
    finally:
        verifiers.close()


def test_without_the_tool_nothing_is_offered_and_nothing_runs() -> None:
    plain = Maths()
    assert not isinstance(plain, MultiTurn)
    assert not isinstance(plain, Waits)
    assert plain.tools(row_of(plain)) is None
    assert plain.respond(row_of(plain), [call("6 * 7")]) is None


@pytest.mark.parametrize(
    "params, said",
    [({"max_calls": 0}, "max_calls"), ({"call_time_s": -1.0}, "call_time_s"), ({"packages": ("no_such",)}, "no_such")],
)
def test_settings_that_mean_nothing_are_refused(params: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Maths(tool_integrated=True, **params)
