"""The tools of an agent: what they do in a real room, and that every mistake is told and none raised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from cascade.environments import swe_tools
from cascade.environments.swe_tools import (
    FILE_BYTES,
    RefusedError,
    carry_out,
    cut,
    inserted,
    numbered,
    replaced,
    schemas,
)
from cascade.environments.tool_calls import Call, calls_of, xml_text
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Room


class Desk:
    """A workplace in a room without a repository."""

    root = "/tmp/desk"

    def __init__(self, room: Room) -> None:
        self.room = room

    def run(self, command: Sequence[str], stdin: bytes, time_s: float) -> Outcome:
        return self.room.run(command, stdin, time_s=time_s, folder=self.root, keep=True)

    def say(self, name: str, **arguments: object) -> str:
        return carry_out(self, Call(name, arguments), 2.0, 4000)

    def file(self, path: str) -> bytes:
        return self.room.run(("cat", f"{self.root}/{path}")).stdout


@pytest.fixture
def room() -> Iterator[Room]:
    with sandbox("bwrap").open(Limits(memory_mib=256, output_kib=4096)) as opened:
        yield opened


@pytest.fixture
def desk(room: Room) -> Desk:
    room.write("/tmp/desk/a.py", b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n")
    room.write("/tmp/desk/sub/deep/b c.txt", b"x\n")
    room.write("/tmp/desk/.hidden", b"x\n")
    return Desk(room)


def test_bash_shows_output_errors_and_how_it_ended(desk: Desk) -> None:
    assert desk.say("bash", command="echo a; echo b >&2; echo c") == "a\nb\nc"
    assert desk.say("bash", command="pwd") == desk.root
    assert desk.say("bash", command="true") == "[no output]"
    assert desk.say("bash", command="echo a; exit 3") == "a\n[exit code 3]"
    assert desk.say("bash", command="kill -SEGV $$").endswith("[exit code -11]")
    assert desk.say("bash", command="cat") == "[no output]"
    assert "syntax error" in desk.say("bash", command="for (")
    assert desk.say("bash", command="printf '\\xff\\x00'") == "\ufffd\0"


def test_bash_is_ended_at_its_limits(desk: Desk) -> None:
    assert desk.say("bash", command="echo a; sleep 100").startswith("a\n[ended after 2 seconds")
    assert "too much output" in desk.say("bash", command="yes")
    assert "out of memory" in desk.say("bash", command="python -c 'x = [bytearray(10**7) for _ in range(200)]'")
    assert desk.say("bash", command="echo still here") == "still here"


def test_nothing_lasts_but_files_and_what_runs_in_the_background(desk: Desk) -> None:
    said = desk.say("bash", command="cd /; export A=1; f() { :; }; (sleep 1; echo late > late.txt) >/dev/null 2>&1 &")
    assert said == "[no output]"
    assert desk.say("bash", command="pwd; echo [$A]; type f 2>/dev/null || echo none") == f"{desk.root}\n[]\nnone"
    desk.say("bash", command="(sleep 0.2; echo late > late.txt) >/dev/null 2>&1 &")
    assert desk.say("bash", command="sleep 0.6; cat late.txt") == "late"


def test_long_output_is_cut_in_the_middle(desk: Desk) -> None:
    said = desk.say("bash", command="seq 100000")
    assert len(said) < 4100
    assert said.startswith("1\n2\n")
    assert said.endswith("99999\n100000")
    assert "characters left out]" in said
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefgh", 4) == "ab\n[4 characters left out]\ngh"


def test_view_shows_files_and_folders(desk: Desk) -> None:
    assert desk.say("view", path="a.py", view_range=[2, 3]) == "     2\ttwo\n     3\tthree"
    assert desk.say("view", path=f"{desk.root}/a.py", view_range=[9, -1]) == "     9\tnine\n    10\tten"
    assert desk.say("view", path="sub/../a.py").count("\n") == 9
    assert desk.say("view", path=".") == f"{desk.root}:\na.py\nsub/\nsub/deep/"
    desk.say("edit", command="create", path="empty", file_text="")
    assert desk.say("view", path="empty") == "[the file is empty]"


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"path": ""}, {"path": "\0"}, {"path": "none"}, {"path": "x" * 5000}, {"path": 3}, {"path": None},
        {"path": "a.py", "view_range": [3, 2]}, {"path": "a.py", "view_range": [0, 2]},
        {"path": "a.py", "view_range": ["1", 2]}, {"path": "a.py", "view_range": [1]},
        {"path": "a.py", "view_range": [True, 2]}, {"path": "a.py", "view_range": [99, 100]},
        {"path": "a.py", "view_range": "1-2"}, {"path": "a.py", "lines": [1, 2]},
    ],
)  # fmt: skip
def test_a_view_that_means_nothing_is_told(desk: Desk, arguments: dict[str, object]) -> None:
    assert desk.say("view", **arguments).startswith("Error: ")


def test_files_that_are_no_text_hold_nobody_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swe_tools, "FILE_S", 0.5)
    made = "mkfifo pipe; ln -s /dev/zero zero; ln -s loop loop; printf 'a\\0b' > binary; mkdir closed; chmod 0 closed"
    desk.say("bash", command=f"{made}; head -c {FILE_BYTES + 1} /dev/urandom > big; ln -s a.py link")
    assert desk.say("view", path="pipe") == f"Error: {desk.root}/pipe cannot be read: timeout."
    for path in ("zero", "big"):
        assert "more than" in desk.say("view", path=path)
    for path in ("loop", "binary", "closed/x", "/etc/shadow"):
        assert desk.say("view", path=path).startswith("Error: ")
    assert "one" in desk.say("view", path="link")


def test_edit_replaces_what_stands_there_once(desk: Desk) -> None:
    said = desk.say("edit", command="str_replace", path="a.py", old_str="two\nthree", new_str="2\n3\n3.5")
    assert said.startswith(f"{desk.root}/a.py is changed:\n     1\tone\n     2\t2\n")
    assert desk.file("a.py") == b"one\n2\n3\n3.5\nfour\nfive\nsix\nseven\neight\nnine\nten\n"
    desk.say("edit", path="a.py", old_str="ten\n")
    assert desk.file("a.py").endswith(b"nine\n")
    for old in ("e", "", "absent", "One"):
        assert desk.say("edit", command="str_replace", path="a.py", old_str=old, new_str="x").startswith("Error: ")
    desk.room.write("/tmp/desk/dos.txt", b"a\r\nb\r\n")
    said = desk.say("edit", command="str_replace", path="dos.txt", old_str="a\nb", new_str="x")
    assert "Lines of this file end with \\r\\n" in said


def test_edit_keeps_bytes_that_are_no_text_and_the_mode(desk: Desk) -> None:
    desk.room.write("/tmp/desk/old.py", b"# \xe9t\xe9\r\nx = 1\n", executable=True)
    desk.say("edit", command="str_replace", path="old.py", old_str="x = 1", new_str="x = 2")
    assert desk.file("old.py") == b"# \xe9t\xe9\r\nx = 2\n"
    assert desk.say("bash", command="test -x old.py && echo yes") == "yes"


def test_edit_creates_and_inserts(desk: Desk) -> None:
    assert desk.say("edit", command="create", path="new/dir ü/x\ny.py", file_text="a\nb\n").endswith("is written.")
    assert desk.file("new/dir ü/x\ny.py") == b"a\nb\n"
    desk.say("edit", command="insert", path="a.py", insert_line=0, new_str="zero")
    desk.say("edit", command="insert", path="a.py", insert_line=11, new_str="eleven\n")
    assert desk.file("a.py").split(b"\n")[::11] == [b"zero", b"eleven"]
    for line in (-1, 99):
        assert desk.say("edit", command="insert", path="a.py", insert_line=line, new_str="x").startswith("Error: ")
    assert "cannot be written" in desk.say("edit", command="create", path="/usr/x", file_text="x")
    assert desk.say("edit", command="create", path="sub", file_text="x").startswith("Error: ")
    assert desk.say("edit", command="create", path="x", file_text="x" * (FILE_BYTES + 1)).startswith("Error: ")
    assert desk.say("edit", command="undo", path="a.py").startswith("Error: ")
    assert desk.say("edit", command="str_replace", path="sub", old_str="x").startswith("Error: ")
    assert desk.say("edit", path="a.py").startswith("Error: ")


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 0, "x\n"), ("a\n", 0, "x\na\n"), ("a\n", 1, "a\nx\n"), ("a", 1, "a\nx\n"), ("a\nb", 1, "a\nx\nb"),
        ("a\nb\n", 1, "a\nx\nb\n"), ("\n\n", 1, "\nx\n\n"), ("a\x0cb\n", 1, "a\x0cb\nx\n"),
    ],
)  # fmt: skip
def test_lines_are_inserted_behind_a_line(text: str, line: int, expected: str) -> None:
    assert inserted(text, line, "x") == expected
    assert inserted(text, line, "x\n") == expected


def test_a_replacement_says_where_it_was() -> None:
    assert replaced("a\nb\nc", "b", "d\ne") == ("a\nd\ne\nc", 2)
    with pytest.raises(RefusedError, match="2 times, first in line 1"):
        replaced("a\na", "a", "b")
    assert numbered("a\nb\n") == "     1\ta\n     2\tb"


def test_unknown_tools_and_unreadable_calls_are_told(desk: Desk) -> None:
    assert "bash, view, edit or submit" in desk.say("python", command="x")
    for text in ("<tool_call>{", "<tool_call>{}</tool_call>", "<tool_call><function=bash></tool_call>"):
        (call,) = calls_of(text)
        assert carry_out(desk, call, 1.0, 100).startswith("Error: This call cannot be read")
    for command in ("a\0b", "x" * 200_000, "\x01" * 30_000, "\U0001f600" * 20_000, None, 3, ["ls"]):
        assert desk.say("bash", command=command).startswith("Error: ")


def test_schemas_type_the_arguments_of_the_xml_form() -> None:
    arguments = {"command": "insert", "path": "a.py", "insert_line": 3, "new_str": "5"}
    (call,) = calls_of(xml_text([{"name": "edit", "arguments": arguments}]), schemas("/testbed", 60))
    assert call.arguments == arguments
    assert [tool["function"]["name"] for tool in schemas("/testbed", 60)] == ["bash", "view", "edit", "submit"]
