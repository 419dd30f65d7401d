"""A rank says who failed first, or that one of those who are there did not take part in time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from cascade.serving.replica import free_port
from tests.processes import ROOT, environment


def two(mode: str, run: Path) -> list[tuple[int, str]]:
    """(exit code, output) of both ranks."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "tests/launch/two_peers.py", mode, str(run)],
            cwd=ROOT,
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_a_rank_whose_collective_fails_says_who_failed_first_and_why(tmp_path: Path) -> None:
    (code, lost), (failed, said) = two("fails", tmp_path)
    assert code == failed == 1
    assert "OSError: the disk is gone" in said
    assert "caught: Rank 0 on " in lost, lost
    assert "the first error was of rank 1 on " in lost
    assert "OSError: the disk is gone" in lost
    done = subprocess.run(
        [sys.executable, "-m", "cascade.launching.failures", str(tmp_path)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "first error: rank 1 on " in done.stderr


def test_a_rank_that_is_late_ends_the_collective_at_its_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    (code, lost), _ = two("sleeps", tmp_path)
    assert code == 1
    assert "all answer, but one was not ready within 4 s" in lost, lost
    assert time.monotonic() - began < 100


def test_a_rank_that_never_starts_is_named() -> None:
    script = "from cascade import parallel; parallel.start(1, 5, 2)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(
            RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Rank 1 of 2 did not come" in done.stderr
