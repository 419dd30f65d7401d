"""Callers share the pool fairly, hold a bounded part of its queue, and can drop what they no longer need."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from cascade.sandbox import cgroups
from cascade.types import Verdict
from cascade.verification.fair_queue import AHEAD, CHUNK, FairQueue, Line
from cascade.verification.jobs import Job
from cascade.verification.local import LocalVerifiers
from tests.verification.test_local import ask, children, configs, job, pool


@pytest.fixture
def verifiers(tmp_path: Path) -> Iterator[LocalVerifiers]:
    made = pool(configs(scratch=str(tmp_path), deadline_s=100.0), cache_entries=0)
    ask(made, "warm", "up", "both", "of", "them")
    made.metrics()
    try:
        yield made
    finally:
        made.close()


def in_background(verifiers: LocalVerifiers, jobs: Sequence[Job]) -> tuple[threading.Thread, list[list[Verdict]]]:
    found: list[list[Verdict]] = []
    thread = threading.Thread(target=lambda: found.extend(verifiers.verify(jobs)))
    thread.start()
    return thread, found


def test_a_caller_with_two_thousand_slow_answers_does_not_starve_one_with_five(verifiers: LocalVerifiers) -> None:
    thread, found = in_background(verifiers, [job([f"sleep 0.1 {n}" for n in range(2000)])])
    time.sleep(1.0)
    for _ in range(3):
        began = time.monotonic()
        assert [verdict.status for verdict in ask(verifiers, *(f"sleep 0.1 mine {n}" for n in range(5)))] == ["ok"] * 5
        assert time.monotonic() - began < 5.0, "100 s of work were queued before it"
    assert thread.is_alive()
    with verifiers.unwanted():
        thread.join(10)
    assert not thread.is_alive()
    assert {verdict.status for verdict in found[0]} == {"ok", "infrastructure"}


def test_the_queue_holds_a_bounded_part_of_a_call_and_every_verdict_arrives(
    verifiers: LocalVerifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, put = 0, FairQueue.put

    def noted(self: FairQueue, line: Line, *rest: object, **more: object) -> bool:
        nonlocal most
        done = put(self, line, *rest, **more)  # type: ignore[arg-type]
        most = max(most, len(line))
        return done

    monkeypatch.setattr(FairQueue, "put", noted)
    jobs = [job(["x" * (n % 50) + str(n) for n in range(start, start + 100)]) for start in range(0, 6000, 100)]
    found = [verdict.score for verdicts in verifiers.verify(jobs) for verdict in verdicts]
    assert [score and score.reward for score in found] == [n % 50 + len(str(n)) for n in range(6000)]
    assert AHEAD // 2 < most <= AHEAD + CHUNK


def test_the_rest_of_a_decided_job_is_dropped_queued_or_running_and_only_that(verifiers: LocalVerifiers) -> None:
    def enough(verdicts: Sequence[Verdict | None]) -> bool:
        return any(verdict and verdict.score and verdict.score.reward == 5.0 for verdict in verdicts)

    one = job(["burn 600 a", "burn 600 b", "shared!", *(f"sleep 1 {n}" for n in range(100)), "right"])
    decided = Job(one.environment, one.row, one.attempts[::-1], enough)
    other = job(["shared!", "x"])
    began = time.monotonic()
    found = verifiers.verify([decided, other])
    assert time.monotonic() - began < 20
    assert found[0][0].status == "ok"
    dropped = [verdict for verdict in found[0] if verdict.status == "infrastructure"]
    assert len(dropped) > 90
    assert all("not needed" in verdict.reason for verdict in dropped)
    assert [verdict.score and verdict.score.reward for verdict in found[1]] == [7.0, 1.0]
    assert verifiers.metrics()["verifiers/cancelled"] == len(dropped)
    assert ask(verifiers, "fine")[0].status == "ok"


def test_a_decision_that_raises_reaches_its_caller_and_leaves_nothing_in_progress(verifiers: LocalVerifiers) -> None:
    one = job(["quick", *(f"burn 600 {n}" for n in range(50))])
    with pytest.raises(ZeroDivisionError):
        verifiers.verify([Job(one.environment, one.row, one.attempts, lambda verdicts: 1 / 0 > 0)])
    began = time.monotonic()
    assert ask(verifiers, "fine")[0].status == "ok"
    assert time.monotonic() - began < 5


def test_while_nobody_wants_verdicts_calls_end_at_once_and_afterwards_they_are_made_again(
    verifiers: LocalVerifiers,
) -> None:
    thread, found = in_background(verifiers, [job(["burn 600 a", "burn 600 b", *(f"sleep 9 {n}" for n in range(500))])])
    time.sleep(0.5)
    began = time.monotonic()
    with verifiers.unwanted():
        thread.join(10)
        refused = ask(verifiers, "fine")
    assert time.monotonic() - began < 5
    assert {verdict.reason for verdict in (*found[0], *refused)} == {"nobody wants the verdicts"}
    assert verifiers.metrics()["verifiers/cancelled"] == 502
    assert ask(verifiers, "fine")[0].status == "ok"


def test_queue_time_run_time_and_how_programs_ended_are_measured(verifiers: LocalVerifiers) -> None:
    assert not any("ended/" in name for name in verifiers.metrics())
    ask(verifiers, *(f"sleep 0.1 {n}" for n in range(20)), "ended timeout", "ended memory", "ended out_of_memory")
    measured = verifiers.metrics()
    assert 0.05 < measured["verifiers/run_s"] < 0.3
    assert 0.1 < measured["verifiers/queue_s"] < 10
    ended = {name.rpartition("/")[2]: value for name, value in measured.items() if "ended/" in name}
    assert ended == {"timeout": 1, "memory": 2, "output_limit": 0, "killed": 0, "runtime_error": 0}
    assert verifiers.metrics()["verifiers/ended/timeout"] == 0


def test_a_room_in_a_worker_has_its_own_limit_of_memory_and_not_the_workers(verifiers: LocalVerifiers) -> None:
    (found,) = ask(verifiers, "room 0 $(ulimit -v)")
    assert found.score, found.reason
    assert found.score.reward == len("unlimited\n")


def test_a_worker_killed_while_a_program_runs_leaves_no_program_no_group_and_no_file(tmp_path: Path) -> None:
    def groups() -> set[str]:
        """Those of the processes below this one."""
        every = [group.name for folder in cgroups.mounted().folders for group in folder.glob(f"{cgroups.PREFIX}*")]
        return {name for name in every if name.removeprefix(cgroups.PREFIX).partition("-")[0] in seen}

    def programs() -> list[int]:
        seen.update(str(each.pid) for each in children())
        return [each.pid for each in psutil.process_iter(["cmdline"]) if "a-marker" in str(each.info["cmdline"])]

    seen: set[str] = set()
    others, files = children(), set(Path("/tmp").iterdir())
    verifiers = pool(configs(scratch=str(tmp_path), deadline_s=0.5), workers=1, retries=0, cache_entries=0)
    try:
        assert ask(verifiers, "room 0 a-marker")[0].status == "ok"
        asking, _ = in_background(verifiers, [job(["room 500 a-marker"])])
        _until(lambda: bool(programs()))
        own = groups()
        assert own
        asking.join(30)
        _until(lambda: not programs())
        _until(lambda: not own & groups())
        asking, _ = in_background(verifiers, [job(["room 501 a-marker"])])
        _until(lambda: bool(programs()))
        own = groups()
    finally:
        verifiers.close()
    asking.join(10)
    _until(lambda: not programs() and not own & groups())
    assert children() <= others
    mine = {file for file in set(Path("/tmp").iterdir()) - files if "cascade" in file.name}
    assert not mine


def _until(true: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
