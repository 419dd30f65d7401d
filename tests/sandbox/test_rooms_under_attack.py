"""What a room does for its owner when a program, or the owner's own end, goes against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade.errors import SandboxError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.identity import PASSING, ROOM_ID, makes_rooms_as_root, passing_id
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Sandbox
from cascade.sandbox.room import ProcessRoom
from tests.conftest import REPOSITORY

LIMITS = Limits(time_s=2.0, memory_mib=96, disk_mib=16, processes=24, output_kib=32)
SAY = (b"print('fine')", b"fine\n")
OWNER = """
import os, sys, time
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits
room = sandbox("bwrap").open(Limits(time_s=60))
if os.fork() == 0: time.sleep(20); os._exit(0)
print(os.getpid(), flush=True)
room.run(("sh", "-c", f"exec -a {sys.argv[1]} sleep 60"))
"""


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return sandbox("bwrap")


def first_process(room: ProcessRoom) -> int:
    """Its id out here."""
    assert room._process
    (inner,) = room._own - {room._process.pid}
    return inner


def opened(box: Sandbox) -> ProcessRoom:
    room = box.open(LIMITS)
    assert isinstance(room, ProcessRoom)
    return room


def test_a_room_that_a_program_brought_down_fails_that_program_and_is_no_failure_of_the_machine(box: Sandbox) -> None:
    with opened(box) as room:
        assert room.run(("python", "-"), b"print('x')").status == "ok"
        os.kill(first_process(room), signal.SIGKILL)
        time.sleep(0.2)
        room.write("answer.py", b"print(1)")
        for _ in range(2):
            said = room.run(("python", "answer.py"))
            assert (said.status, said.exit_code, said.stdout) == ("killed", None, b"")


def test_a_room_that_ends_while_a_program_runs_is_answered_for_by_it(box: Sandbox) -> None:
    with opened(box) as room:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {first_process(room)}"])
        assert room.run(("sleep", "5")).status == "killed"
        killer.wait()


def test_a_room_without_memory_for_what_the_kernel_keeps_says_memory_ever_after(box: Sandbox) -> None:
    empty = b"import os\nfor index in range(10**6): os.close(os.open(f'/tmp/{index}', os.O_CREAT))\n"
    with opened(box) as room:
        assert room.run(("python", "-"), empty, time_s=30).status == "memory"
        assert room.run(("python", "-"), SAY[0]).status in ("memory", "ok")


def test_a_room_that_its_owner_closed_is_an_error_still(box: Sandbox) -> None:
    room = opened(box)
    room.run(("python", "-"), SAY[0])
    room.close()
    with pytest.raises(SandboxError, match="closed"):
        room.run(("python", "-"), SAY[0])


def test_processes_kept_in_the_background_cannot_keep_the_next_program_from_starting(box: Sandbox) -> None:
    with opened(box) as room:
        room.run(("sh", "-c", "for i in $(seq 60); do sleep 50 & done 2>/dev/null"), keep=True)
        said = room.run(("python", "-"), SAY[0])
    assert (said.status, said.stdout) == ("ok", SAY[1])


def test_being_told_to_stop_when_the_program_has_just_ended_does_not_disturb_the_next(box: Sandbox) -> None:
    with opened(box) as room:
        for _ in range(20):
            assert room.run(("python", "-"), b"import os; os.write(1, b'x' * 40000)").status == "output_limit"
            room._stop()
            said = room.run(("python", "-"), SAY[0])
            assert (said.status, said.stdout) == ("ok", SAY[1])


def test_a_program_that_takes_every_core_is_ended_in_time_and_the_next_has_its_limits_again(box: Sandbox) -> None:
    forks = b"import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    with opened(box) as room:
        for _ in range(3):
            began = time.monotonic()
            said = room.run(("python", "-"), forks, time_s=1.0)
            assert (said.status, said.exit_code) == ("timeout", None)
            assert time.monotonic() - began < 1.5
            loops = room.run(("sh", "-c", "(while :; do :; done) & (while :; do :; done) & wait"), time_s=1.0)
            assert loops.cpu_s < 1.1 * 1.0 * LIMITS.cpus + 0.2


def test_a_process_with_more_than_a_thousand_open_files_can_use_rooms(box: Sandbox) -> None:
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with box.open(LIMITS) as room:
            room.write("main.py", SAY[0])
            assert room.run(("python", "main.py")).stdout == SAY[1]
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_rooms_end_with_their_owner_though_a_fork_of_it_lives_on() -> None:
    name = f"cascade-owned-{os.getpid()}"
    words = [sys.executable, "-c", OWNER.replace('sh", "-c', 'bash", "-c'), name]
    owner = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."})
    try:
        assert owner.stdout
        owner.stdout.readline()
        wait_until(lambda: running(name))
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not running(name))


def wait_until(holds: object) -> None:
    end = time.monotonic() + 10
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def running(name: str) -> bool:
    """Whether a process has that for its own name."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(name.encode()):
                return True
        except OSError:
            continue
    return False


def test_a_fork_that_closes_its_copy_of_a_room_does_not_close_the_owners(box: Sandbox) -> None:
    with opened(box) as room:
        child = os.fork()
        if child == 0:
            room.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert room.run(("python", "-"), SAY[0]).stdout == SAY[1]


def test_rooms_that_root_makes_have_users_of_their_own(box: Sandbox) -> None:
    if not makes_rooms_as_root():
        pytest.skip("rooms of an ordinary user are all his")
    asked = b"import os, pwd; print(os.getuid(), pwd.getpwuid(os.getuid()).pw_name)"
    said = set()
    for _ in range(3):
        with box.open(LIMITS) as room:
            said.add(room.run(("python", "-"), asked).stdout)
    assert len(said) == 3
    assert all(line.endswith(b" cascade\n") for line in said)
    assert all(ROOM_ID < passing_id() < ROOM_ID + PASSING for _ in range(2 * PASSING))
