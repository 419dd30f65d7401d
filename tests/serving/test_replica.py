"""A server process starts, fails and ends where one can see it, and never outlives who started it."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError
from cascade.serving.copies import Weights
from cascade.serving.member import started_members
from cascade.serving.pool import Pool
from cascade.serving.replica import Replica
from cascade.serving.supervision import Supervisor
from tests.processes import ROOT, environment

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: `make vllm`")
CHILD = (
    "import os, sys, time; from cascade.processes import end_with_parent; "
    "end_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)"
)


def test_a_process_ends_with_the_one_that_started_it() -> None:
    starter = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, str(os.getpid())])"
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _until(lambda: not Path(f"/proc/{child}").exists() or "Z" in _state(child))


def test_a_process_whose_starter_has_ended_already_ends_at_once() -> None:
    orphan = subprocess.run([sys.executable, "-c", CHILD, "1"], cwd=ROOT, env=environment(), timeout=30)
    assert orphan.returncode == -signal.SIGKILL


@needs_vllm
def test_a_server_that_cannot_start_is_given_up_with_the_first_error_of_its_log(tmp_path: Path) -> None:
    config = RolloutConfig(engine="vllm_server", start_timeout_s=120.0)
    members = started_members(config, tmp_path)
    pool = Pool(120.0)
    pool.set_members(members)
    pool.weights = Weights(1, 0, tmp_path / "no_model")

    async def work() -> None:
        with pytest.raises(EngineError) as caught:
            await Supervisor(pool, PolicyConfig(dtype="fp32"), config, leads=True).begin()
        assert "vLLM replica 0 did not start; its log says: " in caught.value.what
        assert "no_model" in caught.value.what
        assert str(tmp_path / "replica_0.log") in caught.value.fix
        await pool.close()

    asyncio.run(work())


@needs_vllm
def test_a_server_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    config = RolloutConfig(engine="vllm_server", start_timeout_s=0.5)
    pool = Pool(1.0)
    pool.set_members(started_members(config, tmp_path))
    pool.weights = Weights(1, 0, tmp_path)

    async def work() -> None:
        with pytest.raises(EngineError, match=r"replica 0 did not start in 0 s"):
            await Supervisor(pool, PolicyConfig(dtype="fp32"), config, leads=True).begin()
        process = pool.members[0].process
        assert process is not None
        await asyncio.wait_for(process.end(), 5)
        await pool.close()

    asyncio.run(work())


def test_ports_stay_and_logs_grow_over_restarts(tmp_path: Path) -> None:
    """With a process that fails at once: the log of the present start is the one that is shown."""
    ends: list[str] = []

    async def work() -> None:
        replica = Replica(3, {"PYTHONHOME": str(tmp_path)}, tmp_path / "logs" / "replica_3.log")
        port = replica.port
        for start in (1, 2):
            replica.start([], ends.append)
            await asyncio.wait_for(replica.end(), 30)
            assert replica.starts == start
            assert not replica.running
            assert replica.port == port
        await replica.stop()
        text = replica.log.read_text()
        assert "== start 1 of replica 3" in text
        assert "== start 2 of replica 3" in text

    asyncio.run(work())
    assert len(ends) == 2


@pytest.mark.parametrize(
    "lines, shown",
    (
        (["INFO loading", "ValueError: head size 8", "RuntimeError: engine failed"], "ValueError: head size 8"),
        (["INFO loading", "api_server.py: error: no such option"], "api_server.py: error: no such option"),
        (["WARNING errors like `OSError: too many files`", "E ValueError: it"], "E ValueError: it"),
        (["INFO loading", "INFO done"], "INFO done"),
        ([], ""),
    ),
)
def test_the_first_error_of_a_log_is_shown(tmp_path: Path, lines: list[str], shown: str) -> None:
    replica = Replica(0, {}, tmp_path / "replica_0.log")
    replica.log.write_text("".join(f"{line}\n" for line in lines))
    assert replica.first_error() == shown
    assert str(replica.log) in replica.failure("did not start").fix


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
