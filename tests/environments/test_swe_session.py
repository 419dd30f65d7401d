"""The live room of a rollout: what ends it, what it costs, what has changed in it, and how such rooms are kept."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cascade.environments.live_sessions import LiveSessions, keys_of
from cascade.environments.swe_repository import prepare
from cascade.environments.swe_room import REPOSITORY, open_room
from cascade.environments.swe_rows import read_task
from cascade.environments.swe_session import Budget, Session
from cascade.environments.swe_tools import schemas
from cascade.environments.swe_tree import FILE_BYTES, OUTPUT_KIB, changes_since, manifest
from cascade.environments.tool_calls import call_text
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
from cascade.sandbox.room import ProcessRoom
from tests.environments.agents import FILES, REPAIR, SUBMIT, bash, edit, record, view

DEEP = 'python -c \'import os\nfor _ in range(500): os.mkdir("a" * 20), os.chdir("a" * 20)\''
Opener = Callable[..., Session]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens sessions, which are closed in the end."""
    made: list[Session] = []
    prepared = prepare(read_task(record(tmp_path)))

    def open_session(episode_time_s: float = 60.0, command_time_s: float = 5.0, disk_mib: int = 64) -> Session:
        limits = Limits(time_s=10, memory_mib=256, disk_mib=disk_mib, output_kib=OUTPUT_KIB)
        room = open_room(sandbox("bwrap"), prepared, limits)
        budget = Budget(command_time_s=command_time_s, episode_time_s=episode_time_s, shown=2000)
        known = manifest(room, REPOSITORY)
        made.append(Session(room, REPOSITORY, known, schemas(REPOSITORY, command_time_s), budget))
        return made[-1]

    yield open_session
    for session in made:
        session.close()


def changed(opened: Opener, *commands: str) -> dict[str, bytes | None]:
    session = opened()
    session.turn(call_text([bash(command) for command in commands]))
    return session.finish().files


def test_calls_of_a_turn_are_carried_out_in_order_up_to_submit(opened: Opener) -> None:
    session = opened()
    assert session.turn(call_text([bash("echo 1 > x"), bash("cat x"), view("x")])) == ["[no output]", "1", "     1\t1"]
    assert session.ended is None
    assert session.turn(call_text([bash("echo 2 > x"), SUBMIT, bash("echo 3 > x")])) == ["[no output]"]
    assert session.ended == "submitted"
    assert session.turn(call_text([bash("echo 4 > x")])) == []
    assert (session.turns, session.calls, session.refused) == (2, 5, 0)
    assert session.finish().files == {"x": b"2\n"}


def test_a_turn_without_a_call_ends_the_work_and_an_unreadable_call_does_not(opened: Opener) -> None:
    session = opened()
    (said,) = session.turn('<tool_call>{"name": "bash", "arguments": </tool_call>')
    assert said.startswith("Error: This call cannot be read")
    assert (session.ended, session.refused) == (None, 1)
    assert session.turn("I am done.") == []
    assert session.ended == "text"
    assert session.finish().files == {}


def test_the_time_of_all_commands_is_bounded_together(opened: Opener) -> None:
    session = opened(episode_time_s=1.5, command_time_s=1.0)
    (said,) = session.turn(call_text([bash("echo x > x; sleep 30")]))
    assert "ended after 1 seconds" in said
    assert session.late
    assert session.ended is None
    session.turn(call_text([bash("true")]))
    assert not session.late
    session.turn(call_text([bash("sleep 30"), bash("echo y > y")]))
    assert session.ended == "wall_clock"
    assert 1.5 <= session.spent_s < 3.0
    assert session.finish().files == {"x": b"x\n"}


def test_out_of_memory_ends_the_work(opened: Opener) -> None:
    session = opened()
    session.turn(call_text([REPAIR, bash("python -c 'x = [bytearray(10**7) for _ in range(100)]'"), bash("echo > z")]))
    assert session.ended == "memory"
    assert set(session.finish().files) <= {"counting/words.py"}


def test_a_room_that_went_down_with_a_command_ends_the_work(opened: Opener) -> None:
    for by, ending in (("timeout", "wall_clock"), ("memory", "memory")):
        for calls in ([], [bash("ls")]):
            session = opened()
            session.turn(call_text([bash("ls")]))
            assert isinstance(session._room, ProcessRoom)
            session._room._brought_down(by, 5.0)
            if calls:
                session.turn(call_text(calls))
            assert session.finish().unreadable
            assert session.ended == ending


def test_every_kind_of_change_is_found_and_nothing_else(opened: Opener) -> None:
    files = changed(
        opened,
        "echo new > 'a b.py'; echo x > $'new\\nline'; echo x > ü; mkdir -p d/e; echo x > d/e/f; touch empty",
        "rm README.md; chmod +x setup.cfg; touch counting/words.py; cp counting/words.py w; cat w > counting/words.py",
        "printf '\\xff\\xfe' > latin; printf 'a\\0b' > binary; python -m pytest -q; python -m compileall -q .; rm w",
    )
    assert files == {
        "a b.py": b"new\n", "new\nline": b"x\n", "ü": b"x\n", "d/e/f": b"x\n", "empty": b"", "README.md": None,
        "latin": b"\xff\xfe", "binary": b"a\0b",
    }  # fmt: skip


def test_links_lead_nowhere(opened: Opener) -> None:
    files = changed(
        opened,
        "ln -s /etc/passwd p; ln -s / root; ln -s ../../.. up; ln -s counting/words.py inside; mkfifo pipe",
        "ln -s me me; mv counting/words.py /tmp/w; ln -s /tmp/w counting/words.py",
        "mv tests /tmp/tests; ln -s /tmp/tests tests",
    )
    assert files == {"counting/words.py": None, "tests/__init__.py": None, "tests/test_words.py": None}


def test_histories_and_caches_are_nobodys_change(opened: Opener) -> None:
    files = changed(
        opened, "git init -q .; git add -A; echo x > .git/hooks/post-checkout; mkdir a; echo > a/.git; echo > b.pyc"
    )
    assert files == {}


def test_names_that_are_no_text_survive(opened: Opener) -> None:
    assert list(changed(opened, "echo x > $'bad\\xff.py'")) == ["bad\udcff.py"]


def test_large_files_are_left_out_and_too_many_are_unreadable(opened: Opener) -> None:
    session = opened()
    session.turn(call_text([bash(f"head -c {FILE_BYTES + 1} /dev/zero > big; echo x > small; chmod 0 small")]))
    found = session.finish()
    assert (set(found.files), found.left_out) == (set(), 2)
    session = opened()
    session.turn(call_text([bash("for i in $(seq 20); do head -c 1000000 /dev/zero > $i; done")]))
    found = session.finish()
    assert (found.files, found.unreadable) == ({}, "too much")


def test_a_full_disk_ends_the_command_and_no_more(opened: Opener) -> None:
    session = opened()
    said, *_ = session.turn(call_text([bash("echo x > x; head -c 200000000 /dev/zero > big")]))
    assert "[ended: the disk is full]" in said or "File too large" in said
    session.turn(call_text([SUBMIT]))
    assert session.ended == "submitted"
    found = session.finish()
    assert found.files == {"x": b"x\n"} or found.unreadable


def test_deep_and_many_folders_are_bounded(opened: Opener) -> None:
    session = opened()
    session.turn(call_text([REPAIR, bash(DEEP)]))
    assert list(session.finish().files) == ["counting/words.py"]


def test_what_runs_in_the_background_changes_nothing_after_the_end(opened: Opener) -> None:
    session = opened()
    daemon = "setsid bash -c 'while true; do date +%N > counting/words.py; done' >/dev/null 2>&1 &"
    session.turn(call_text([bash(daemon), bash("sleep 0.2")]))
    room = session._room
    assert room is not None
    room.run(("true",))
    first = changes_since(room, REPOSITORY, session._known).files
    assert first["counting/words.py"] != FILES["counting/words.py"].encode()
    assert changes_since(room, REPOSITORY, session._known).files == first
    assert session.finish().files == first


def test_what_runs_in_the_background_rests_between_turns_and_goes_on_in_them(opened: Opener) -> None:
    session = opened()
    count = "python -c 'import time\nwhile True: print(1, flush=True); time.sleep(0.01)' > /tmp/n 2>&1 &"
    session.turn(call_text([bash(count), bash("until grep -q 1 /tmp/n; do sleep 0.1; done")]))
    (first,) = session.turn(call_text([bash("wc -l < /tmp/n")]))
    time.sleep(1.0)
    (second, _, third) = session.turn(call_text([bash("wc -l < /tmp/n"), bash("sleep 0.5"), bash("wc -l < /tmp/n")]))
    assert 0 < int(first) <= int(second) < int(first) + 50, "it went on for a second"
    assert int(third) > int(second)
    assert session.finish().files == {}


def test_a_fork_bomb_is_over_when_its_command_is(opened: Opener) -> None:
    session = opened(command_time_s=2.0)
    session.turn(call_text([bash("f() { f | f & }; f; sleep 30")]))
    session.turn(call_text([bash("(setsid sleep 77 &) ; echo ok")]))
    assert session.finish().files == {}


def test_edits_reach_the_repository(opened: Opener) -> None:
    session = opened()
    session.turn(call_text([edit(path="counting/words.py", old_str="split(' ')", new_str="split()")]))
    assert list(session.finish().files) == ["counting/words.py"]


class Kept:
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_sessions_are_taken_by_what_was_said() -> None:
    live: LiveSessions[Kept] = LiveSessions(8, 60.0)
    first, second, third = Kept(), Kept(), Kept()
    live.put("a", first)
    live.put("a", second)
    live.put("c", third)
    assert live.take(["b"]) is None
    assert live.remade == 0
    assert live.take(["a", "b", "c", "d"]) == (2, third)
    assert live.remade == 1
    assert {live.take(["a"]), live.take(["a"])} == {(0, first), (0, second)}
    assert live.take(["x", "a", "y"]) is None
    assert live.remade == 3
    assert len(live) == first.closed == 0


def test_too_many_and_too_old_sessions_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("cascade.environments.live_sessions.time.monotonic", lambda: now)
    live: LiveSessions[Kept] = LiveSessions(2, 10.0)
    kept = [Kept() for _ in range(4)]
    for number, session in enumerate(kept[:3]):
        live.put(str(number), session)
    assert [session.closed for session in kept] == [1, 0, 0, 0]
    now = 11.0
    assert live.take(["2"]) is None
    assert [session.closed for session in kept] == [1, 1, 1, 0]
    live.put("3", kept[3])
    live.close()
    assert [session.closed for session in kept] == [1, 1, 1, 1]
    assert len(live) == 0


ENDING = """
import os
from cascade.environments.live_sessions import LiveSessions

class Kept:
    def close(self):
        print("closed by", "the child" if os.getpid() != mine else "its owner", flush=True)

mine, live = os.getpid(), LiveSessions(2, 10.0)
live.put("a", Kept())
if os.fork() == 0:
    raise SystemExit
os.wait()
print("going on", flush=True)
"""


def test_all_are_closed_when_their_process_ends_and_only_then() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["going on", "closed by its owner"]


def test_any_thread_may_keep_and_take() -> None:
    live: LiveSessions[Kept] = LiveSessions(10, 60.0)
    taken: list[Kept] = []

    def work(number: int) -> None:
        for turn in range(200):
            live.put(f"{turn % 7}", Kept())
            if found := live.take([f"{(turn + number) % 7}"]):
                taken.append(found[1])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, taken))) == len(taken)
    assert all(session.closed == 0 for session in taken)


def test_keys_tell_rows_and_answers_apart() -> None:
    assert keys_of("r", ["a", "b"])[:2] == keys_of("r", ["a"])
    found = [keys_of("r", answers)[-1] for answers in ([], ["ab"], ["a", "b"], ["", "ab"], ["ab", ""], ["\ud800"])]
    assert len({*found, keys_of("q", [])[-1]}) == 7
