"""A run that is killed again and again ends with the very weights of one that was not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import ROOT, STAGES, environment, metrics, shared_run, weights, words_of

TIMES = ("time", "step_time", "publish/seconds", "verifiers/")  # what the clock decides, by how a key begins


def kill_in(stage: str, run: Path, words: list[str], rng: random.Random) -> None:
    """Starts the run and kills its whole process tree a random moment after a step of `stage`."""
    lines_before = len(metrics(run, stage)) if (run / "stages" / stage / "metrics.jsonl").exists() else 0
    with (run.parent / "killed.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cascade", "run", *words],
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    file, deadline = run / "stages" / stage / "metrics.jsonl", time.monotonic() + 240
    try:
        while not file.exists() or file.read_bytes().count(b"\n") <= lines_before:
            assert process.poll() is None, (run.parent / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"no step of {stage}"
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0) * metrics(run, stage)[-1]["step_time"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.5)  # workers of a launcher are not our children: give the kernel a moment to take their locks
    assert not (run / "report.html").exists() or stage == STAGES[-1]


def finish(run: Path, words: list[str]) -> None:
    """Runs until the end, without a kill."""
    done = subprocess.run(
        [sys.executable, "-m", "cascade", "run", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def check_whole(run: Path, reference: Path) -> None:
    """Every step is recorded once, with the numbers of the reference, and nothing half-written is left."""
    for stage in STAGES:
        expected, found = metrics(reference, stage), metrics(run, stage)
        assert [line["step"] for line in found] == list(range(1, len(expected) + 1)), stage
        for a, b in zip(expected, found, strict=True):
            timeless = [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in (a, b)]
            assert timeless[0] == timeless[1], stage
        assert not (run / "stages" / stage / "checkpoints").exists()
        assert not [path for path in (run / "stages" / stage).rglob(".*") if path.name.endswith((".tmp", ".old"))]
        evaluated = [(folder / "stages" / stage / "evaluation.json").is_file() for folder in (run, reference)]
        assert evaluated == [True, True]


@pytest.mark.slow
def test_kills_change_no_byte_where_batches_are_sampled_ahead_of_training(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    ahead = [f"stages.{stage}.max_staleness=1" for stage in ("if_rl", "math_teacher", "mopd")]
    temporary = tmp_path_factory.getbasetemp()
    reference = shared_run(temporary, "one_step_off", *ahead)
    assert metrics(reference, "mopd")[-1]["staleness/max"] == 1
    run, rng = tmp_path / "run", random.Random(11)
    words = [*words_of(temporary, run), *ahead]
    for stage in ("if_rl", "mopd"):
        kill_in(stage, run, words, rng)
    finish(run, words)
    check_whole(run, reference)
    assert weights(run, STAGES) == weights(reference, STAGES)


def test_three_kills_change_no_byte_of_any_stage(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    temporary = tmp_path_factory.getbasetemp()
    reference = shared_run(temporary, "one_process")
    run, rng = tmp_path / "run", random.Random(7)
    words = words_of(temporary, run)
    for stage in ("sft", "if_rl", "mopd"):
        kill_in(stage, run, words, rng)
    finish(run, words)
    assert weights(run, STAGES) == weights(reference, STAGES)
    check_whole(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_change_no_byte(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, seed: int
) -> None:
    """Blind kills, between 4 and 16 seconds after the start: while loading, saving, exporting, evaluating."""
    temporary = tmp_path_factory.getbasetemp()
    reference = shared_run(temporary, "one_process")
    run, rng = tmp_path / "run", random.Random(seed)
    words = words_of(temporary, run)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "cascade", "run", *words],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(4.0, 16.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish(run, words)
    assert weights(run, STAGES) == weights(reference, STAGES)
    check_whole(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_kills_of_two_processes_change_no_byte_of_any_stage(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, zero_stage: int
) -> None:
    temporary = tmp_path_factory.getbasetemp()
    two = ("launch=torchrun", "launch.threads=1", "launch.processes=2", f"policy.zero_stage={zero_stage}")
    reference = shared_run(temporary, f"two_processes_{zero_stage}", *two)
    run, rng = tmp_path / "run", random.Random(11)
    words = [*words_of(temporary, run), *two]
    for stage in ("sft", "math_teacher", "mopd"):
        kill_in(stage, run, words, rng)
    finish(run, words)
    assert weights(run, STAGES) == weights(reference, STAGES)
    check_whole(run, reference)
