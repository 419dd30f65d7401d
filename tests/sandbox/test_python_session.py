"""A Python session keeps its variables, and survives whatever a call does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cascade.errors import ConfigError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.python_session import PythonSession, shown_packages

LIMIT_S = 1.0


@pytest.fixture(scope="module")
def shared() -> Iterator[PythonSession]:
    made = PythonSession(sandbox("bwrap"), Limits(time_s=LIMIT_S, memory_mib=128))
    yield made
    made.close()


@pytest.fixture
def session(shared: PythonSession) -> PythonSession:
    assert shared.run("kept = 7\ncount = 0") == ""
    return shared


def test_it_shows_what_is_printed_and_the_value_of_a_last_expression(session: PythonSession) -> None:
    assert session.run("print('a')\n6 * kept") == "a\n42"
    assert session.run("None") == ""
    assert session.run("x = 1") == ""
    assert session.run("import sys; sys.stderr.write('e\\n'); x") == "e\n1"


def test_variables_functions_and_imports_last(session: PythonSession) -> None:
    session.run("import math\ndef area(r):\n    return math.pi * r * r * kept")
    assert session.run("round(area(1))") == "22"


def test_what_was_done_before_an_exception_stays(session: PythonSession) -> None:
    said = session.run("count = 5\n[][1]")
    assert said.endswith("IndexError: list index out of range")
    assert "[][1]" in said
    assert "session.py" not in said
    assert session.run("count") == "5"


@pytest.mark.parametrize(
    "code, said",
    [
        ("count = 1\nwhile True: pass", "[ended after 1 s: the call left no variables behind]"),
        ("count = 1\nimport time; time.sleep(60)", "[ended after 1 s: the call left no variables behind]"),
        ("count = 1\nimport os; os._exit(3)", "[its process ended: the call left no variables behind]"),
        ("count = 1\nimport os; os.kill(os.getpid(), 9)", "[its process ended: the call left no variables behind]"),
        ("count = 1\nx = bytearray(500 << 20)", "left no variables behind]"),
    ],
)
def test_a_call_that_is_ended_never_was_and_those_before_it_still_are(
    session: PythonSession, code: str, said: str
) -> None:
    began = time.monotonic()
    assert session.run(code).endswith(said)
    assert time.monotonic() - began < 10
    assert session.run("kept, count") == "(7, 0)"


def test_what_a_call_printed_before_it_was_ended_is_shown(session: PythonSession) -> None:
    assert session.run("print('here')\nwhile True: pass").startswith("here\n[ended after")


@pytest.mark.parametrize("code", ["import os; os.kill(-1, 9)", "import os; os.kill(os.getppid(), 9); os.kill(-1, 9)"])
def test_a_call_that_ends_everything_costs_the_variables_and_nothing_else(session: PythonSession, code: str) -> None:
    assert session.run(code).endswith("begins anew: earlier variables are gone]")
    assert "NameError" in session.run("kept")
    assert session.run("1 + 1") == "2"


def test_a_flood_ends_in_an_exception_and_not_in_the_session(session: PythonSession) -> None:
    assert len(session.run("while True: print('x' * 1000)")) <= 1 << 20
    assert session.run("kept") == "7"


def test_mistakes_of_every_kind_are_text(session: PythonSession) -> None:
    assert "SyntaxError" in session.run("def f(:")
    assert "EOFError" in session.run("input()")
    assert "SystemExit" in session.run("raise SystemExit(1)")
    assert session.run("import os\nif os.fork() == 0: os._exit(0)\n1") == "1"
    assert session.run("'\ud800'") == "'?'"
    assert session.run("import sys; sys.stdout.close()") is not None
    assert session.run("") == ""


def test_many_calls_leave_no_processes_behind(session: PythonSession) -> None:
    for number in range(30):
        assert session.run(f"n = {number}\nn") == str(number)
    assert session.run("import os; len([p for p in os.listdir('/proc') if p.isdigit()]) < 8") == "True"


def test_neither_the_network_nor_files_of_this_machine_are_there(session: PythonSession) -> None:
    assert "Error" in session.run("import socket; socket.create_connection(('1.1.1.1', 53), 1)")
    assert "Error" in session.run(f"open({__file__!r})")


def test_packages_that_are_asked_for_can_be_imported_and_others_cannot() -> None:
    with_one = PythonSession(sandbox("bwrap"), Limits(time_s=60.0), ("mpmath",))
    try:
        assert with_one.run("import mpmath; mpmath.mpf(1) / 4") == "mpf('0.25')"
        assert "No module named 'sympy'" in with_one.run("import sympy")
    finally:
        with_one.close()
    with pytest.raises(ConfigError, match="nowhere_at_all"):
        shown_packages(("nowhere_at_all",))
