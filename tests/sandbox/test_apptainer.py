"""The back end for container images: its command lines, and its rooms against a stand-in for Apptainer.

The stand-in starts nothing: it writes down what it was told and runs commands as plain processes. That images,
namespaces and limits hold is Apptainer's own affair, and was not tried here.
"""

from __future__ import annotations

import json
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from cascade.errors import SandboxError
from cascade.sandbox.apptainer import Apptainer, found, run_words, start_words
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import HOME, Furniture

IMAGE = "docker://swebench/sweb.eval.x86_64.x"
STAND_IN = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
with open(os.environ["APPTAINER_TOLD"], "a") as told:
    told.write(json.dumps([words, "SECRET" in os.environ]) + "\\n")
if words[1:3] == ["instance", "start"] and words[-2].endswith("broken.sif"):
    sys.exit("FATAL: no such image")
binds = os.environ["APPTAINER_TOLD"] + ".binds"
if words[1:3] == ["instance", "start"]:
    shown = dict(word.split(":")[1::-1] for before, word in zip(words, words[1:]) if before == "--bind")
    json.dump(shown, open(binds, "w"))
if words[1] == "exec":
    at = next(i for i, word in enumerate(words) if word.startswith("instance://"))
    shown = json.load(open(binds))
    command = [shown.get(word, word) for word in words[at + 1 :]]
    if command[-1] == "kill -KILL -1":
        sys.exit(137)
    if "APPTAINER_CLOSES" in os.environ:
        os.closerange(3, 64)
    os.execvp(command[0], command)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in was told, a JSON line a call; it is first in PATH."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("APPTAINER_TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("SECRET", "x")
    return tmp_path / "told"


def calls(told: Path) -> list[list[str]]:
    return [json.loads(line)[0] for line in told.read_text().splitlines()]


def test_the_command_that_starts_an_instance(tmp_path: Path) -> None:
    furniture = Furniture(read_only={"/data": tmp_path / "a"}, copy_on_write={"/repo": tmp_path / "b"})
    limits = Limits(memory_mib=2048, processes=99, cpus=1.5)
    assert start_words("apptainer", IMAGE, "n", limits, furniture) == [
        "apptainer", "--silent", "instance", "start", "--cleanenv", "--pid", "--ipc", "--no-privs", "--writable-tmpfs",
        "--no-mount", "home,tmp,cwd,bind-paths,hostfs", "--net", "--network", "none",
        "--memory", "2048M", "--memory-swap", "2048M", "--pids-limit", "99", "--cpus", "1.5",
        "--bind", f"{tmp_path}/a:/data:ro", "--bind", f"{tmp_path}/b:/.cascade/0:ro", IMAGE, "n",
    ]  # fmt: skip
    for path in ("/a:b", "/a,b"):
        with pytest.raises(SandboxError, match="colons"):
            start_words("apptainer", IMAGE, "n", limits, Furniture(read_only={path: tmp_path}))


def test_the_command_that_runs_a_program() -> None:
    assert run_words("apptainer", "n", ("bash", "-c", "ls"), "/testbed", {"A": "b,c"}) == [
        "apptainer", "--silent", "exec", "--cleanenv", "--pwd", "/testbed", "instance://n",
        "env", f"HOME={HOME}", "LANG=C.UTF-8", "A=b,c", "bash", "-c", "ls",
    ]  # fmt: skip


def test_a_room_is_an_instance_from_start_to_stop(told: Path) -> None:
    with found(IMAGE).open(Limits(time_s=5)) as room:
        outcome = room.run(("cat",), b"x\n", folder="/", variables={"A": "1"}, keep=True)
        assert (outcome.status, outcome.exit_code, outcome.stdout) == ("ok", 0, b"x\n")
        room.run(("true",))
    room.close()
    words = calls(told)
    name = words[0][-1]
    assert name.startswith("cascade-")
    assert words[0][1:3] == ["instance", "start"]
    assert words[1][-3:] == ["mkdir", "-p", HOME]
    assert words[2][-2:] == ["A=1", "cat"]
    assert [each[-1] for each in words[3:5]] == ["true", "kill -KILL -1"]  # not behind the one that keeps
    assert words[5:] == [["--silent", "instance", "stop", "--signal", "SIGKILL", name]]
    assert not any(json.loads(line)[1] for line in told.read_text().splitlines()), "it was given our own variables"


def test_files_are_written_and_folders_copied(told: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("a")
    with found(IMAGE).open(Limits(), Furniture(copy_on_write={str(tmp_path / "copy"): tmp_path / "source"})) as room:
        copying = next(words for words in calls(told) if "cp -a" in str(words))
        assert copying[-2:] == ["/.cascade/0", str(tmp_path / "copy")]
        assert (tmp_path / "copy" / "a").read_text() == "a"
        room.write(f"{tmp_path}/new/a b", b"text", executable=True)
    made = tmp_path / "new" / "a b"
    assert made.read_bytes() == b"text"
    assert made.stat().st_mode & 0o111


def test_a_line_reaches_programs_or_is_an_error(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, found(IMAGE).open(Limits()) as room:
        room.run(("/bin/sh", "-c", "echo here >&3"), line=theirs)
        assert ours.recv(10) == b"here\n"
        room.run(("/bin/sh", "-c", "echo again >&3"), line=theirs)
        assert ours.recv(10) == b"again\n"
    monkeypatch.setenv("APPTAINER_CLOSES", "1")
    ours, theirs = socket.socketpair()
    with ours, theirs, found(IMAGE).open(Limits()) as room, pytest.raises(SandboxError, match="no descriptors"):
        room.run(("true",), line=theirs)


@pytest.mark.parametrize(
    ("command", "status", "code"),
    [
        ("exit 3", "runtime_error", 3), ("exit 139", "runtime_error", -11), ("exit 137", "memory", None),
        ("exit 143", "killed", -15), ("exit 200", "runtime_error", 200), ("sleep 30", "timeout", None),
        ("yes", "output_limit", None),
    ],
)  # fmt: skip
def test_the_ends_of_programs_are_told_apart(told: Path, command: str, status: str, code: int | None) -> None:
    with found(IMAGE).open(Limits(time_s=1, output_kib=64)) as room:
        began = time.monotonic()
        outcome = room.run(("bash", "-c", f"exec {command}" if " 30" in command or command == "yes" else command))
        assert (outcome.status, outcome.exit_code) == (status, code)
        assert time.monotonic() - began < 5
        assert len(outcome.stdout) <= 64 * 1024


def test_what_cannot_be_opened_is_an_error_that_says_why(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="no such image"):
        found("/images/broken.sif").open(Limits())
    with pytest.raises(SandboxError, match="none is named"):
        found().open(Limits())
    room = found(IMAGE).open(Limits())
    room.close()
    with pytest.raises(SandboxError, match="closed"):
        room.run(("true",))
    with pytest.raises(SandboxError, match="failed in an instance"):
        found(IMAGE).open(Limits(), Furniture(copy_on_write={"/proc/x": told.parent / "bin"}))
    assert calls(told)[-1][1:3] == ["instance", "stop"]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="no Apptainer here"):
        found()
    assert Apptainer().name == "apptainer"
