"""The local pool holds its deadlines, tells whose fault a late verdict is, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cascade.config import EnvironmentConfig
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environments
from cascade.errors import ConfigError
from cascade.types import Row, Score, Verdict
from cascade.verification.jobs import Job, Verifiers, specs_of
from cascade.verification.local import LocalVerifiers
from tests.conftest import REPOSITORY

DEADLINE_S = 0.3  # of `Hostile`


def configs(**params: Any) -> dict[str, EnvironmentConfig]:
    """The hostile environments, by name."""
    kinds = {"hostile": "Hostile", "groups": "HostileGroups", "brisk": "Hostile"}
    own = {"brisk": {"deadline_s": 0.02}}
    return {
        name: EnvironmentConfig(
            kind=f"tests.verification.hostile.{kind}", domain="math", params={**params, **own.get(name, {})}
        )
        for name, kind in kinds.items()
    }


def pool(configured: dict[str, EnvironmentConfig], **options: Any) -> LocalVerifiers:
    return LocalVerifiers(build_environments(configured, 0), specs_of(configured, 0), **{"workers": 2, **options})


def job(answers: Sequence[str], environment: str = "hostile", row_id: str = "1", data: Any = None) -> Job:
    row = Row(f"{environment}/{row_id}", "math", environment, data or {"question": "?"})
    return Job(environment, row, tuple(attempt_at([answer]) for answer in answers))


def ask(verifiers: Verifiers, *answers: str, environment: str = "hostile") -> list[Verdict]:
    """The verdicts on answers at one row."""
    return verifiers.verify([job(answers, environment)])[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalVerifiers]:
    """A pool that survives all that the tests below do to it, and remembers nothing."""
    others = children()  # of tests in other files, e.g. servers
    made = pool(configs(scratch=str(tmp_path_factory.mktemp("scratch"))), cache_entries=0)
    try:
        yield made
    finally:
        made.close()
    assert children() <= others


@pytest.fixture
def verifiers(shared: LocalVerifiers) -> LocalVerifiers:
    shared.metrics()
    return shared


def children() -> set[psutil.Process]:
    """Every process below this one."""
    return set(psutil.Process().children(recursive=True))


def test_verdicts_come_in_the_order_of_jobs_and_attempts(verifiers: LocalVerifiers) -> None:
    jobs = [job(["x" * (i + j) for j in range(7)], row_id=str(i)) for i in range(50)]
    rewards = [[verdict.score.reward for verdict in each if verdict.score] for each in verifiers.verify(jobs)]
    assert rewards == [[float(i + j) for j in range(7)] for i in range(50)]


def test_an_answer_that_computes_beyond_the_deadline_is_killed_then_and_scores_0(verifiers: LocalVerifiers) -> None:
    ask(verifiers, "warm", "up", "both", "of", "them")
    began = time.monotonic()
    found = ask(verifiers, "short", "regex", "burn 60", "longer one")
    assert [verdict.status for verdict in found] == ["ok", "task", "task", "ok"]
    assert [verdict.score and verdict.score.reward for verdict in found] == [5.0, 0.0, 0.0, 10.0]
    assert found[1].reason == "took longer than 0.3 s"
    assert time.monotonic() - began < 20 * DEADLINE_S
    assert verifiers.metrics()["verifiers/timeouts"] == 2


def test_an_answer_that_waits_is_the_machines_fault_and_tried_again(verifiers: LocalVerifiers) -> None:
    found = ask(verifiers, "sleep 60", "fine")
    assert [verdict.status for verdict in found] == ["infrastructure", "ok"]
    assert found[0].score is None
    assert "of which the worker computed" in found[0].reason
    assert verifiers.metrics()["verifiers/retries"] == 2


def test_a_late_verdict_that_the_machine_delayed_still_counts(verifiers: LocalVerifiers) -> None:
    found = ask(verifiers, f"sleep {2 * DEADLINE_S}")
    assert (found[0].status, found[0].score) == ("ok", Score(1.0))


def test_an_answer_that_ends_two_workers_scores_0_and_one_that_ends_one_is_tried_again(
    verifiers: LocalVerifiers,
) -> None:
    found = ask(verifiers, "before", "exit", "exit_once marker", "segfault", "after")
    assert [verdict.status for verdict in found] == ["ok", "task", "ok", "task", "ok"]
    assert found[1].reason == "ended its worker process twice (exit code 3)"
    assert "SIGSEGV" in found[3].reason
    assert verifiers.metrics()["verifiers/deaths"] == 5


def test_memory_is_bounded_and_taking_more_is_the_answers_fault(verifiers: LocalVerifiers) -> None:
    found = ask(verifiers, "allocate", "raise memory", "fine")
    assert [verdict.status for verdict in found] == ["task", "task", "ok"]
    assert "memory" in found[0].reason


@pytest.mark.parametrize("what", ["base", "exit", "interrupt", "anything"])
def test_whatever_is_raised_becomes_a_failure_with_its_traceback(verifiers: LocalVerifiers, what: str) -> None:
    bad, good = ask(verifiers, f"raise {what}", "fine")
    assert (bad.status, bad.score) == ("data", None)
    assert "Traceback" in bad.reason
    assert "hostile.py" in bad.reason
    assert good.status == "ok"
    assert verifiers.metrics()["verifiers/deaths"] == 0


def test_typed_failures_keep_their_kind(verifiers: LocalVerifiers) -> None:
    found = ask(verifiers, "failure task", "failure data", "failure infrastructure")
    assert [verdict.status for verdict in found] == ["task", "data", "infrastructure"]
    assert [verdict.score and verdict.score.reward for verdict in found] == [0.0, None, None]


@pytest.mark.parametrize("what", ["none", "text", "nan", "infinite", "huge", "words", "parts", "list", "mask"])
def test_what_is_no_score_is_a_failure_and_never_a_reward(verifiers: LocalVerifiers, what: str) -> None:
    (found,) = ask(verifiers, f"return {what}")
    assert (found.status, found.score) == ("data", None)


def test_a_mask_survives_the_way_from_the_worker_and_the_cache(tmp_path: Path) -> None:
    verifiers = pool(configs(scratch=str(tmp_path)), workers=1)
    try:
        for _ in range(2):
            found = [verdict.score for verdict in ask(verifiers, "return masked", "fine")]
            assert [score and score.masked for score in found] == [True, False]
            assert found[0] is not None
            assert found[0].reward == 1.0
        assert verifiers.metrics()["verifiers/cache_hits"] == 2
    finally:
        verifiers.close()


def test_printing_disturbs_nothing(verifiers: LocalVerifiers, capfd: pytest.CaptureFixture[str]) -> None:
    assert [verdict.status for verdict in ask(verifiers, "print", "fine")] == ["ok", "ok"]
    captured = capfd.readouterr()
    assert "junk" not in captured.out + captured.err


def test_a_process_that_an_answer_leaves_behind_is_ended_with_its_worker(tmp_path: Path) -> None:
    before = children()
    verifiers = pool(configs(scratch=str(tmp_path)), workers=1)
    try:
        found = ask(verifiers, "fork", "fork daemon", "fine")
        assert [verdict.status for verdict in found] == ["ok", "ok", "ok"]
        daemon = psutil.Process(int(_awaited(tmp_path / "daemon")))
        ask(verifiers, "exit")
        assert _gone(daemon)
    finally:
        verifiers.close()
    assert children() <= before


def test_answers_of_megabytes_and_of_strange_characters_come_through(verifiers: LocalVerifiers) -> None:
    answers = ["y" * 5_000_000, "\ud800\x00\u202e", "🙂" * 100_000]
    found = verifiers.verify([job(answers), job([answers[0] + "z"] * 3, data={"big": "r" * 2_000_000})])
    assert [verdict.score and verdict.score.reward for verdict in found[0]] == [5e6, 3.0, 1e5]
    assert [verdict.score and verdict.score.reward for verdict in found[1]] == [5e6 + 1] * 3


def test_a_row_that_cannot_travel_is_a_failure_of_that_row_alone(verifiers: LocalVerifiers) -> None:
    found = verifiers.verify([job(["a"], row_id="1", data={"code": lambda: 0}), job(["a"], row_id="2")])
    assert [each[0].status for each in found] == ["data", "ok"]
    assert "cannot be sent" in found[0][0].reason


def test_equal_attempts_are_judged_once_and_remembered_but_failures_are_not(tmp_path: Path) -> None:
    verifiers = pool(configs(scratch=str(tmp_path)))
    try:
        ask(verifiers, "same", "same", "burn 60", "raise anything")
        assert verifiers.metrics()["verifiers/cache_hits"] == 1
        began = time.monotonic()
        again = ask(verifiers, "same", "burn 60", "raise anything")
        assert verifiers.metrics()["verifiers/cache_hits"] == 2
        assert [verdict.status for verdict in again] == ["ok", "task", "data"]
        assert time.monotonic() - began < DEADLINE_S
        other_row = verifiers.verify([job(["same"], row_id="other")])
        assert (other_row[0][0].status, verifiers.metrics()["verifiers/cache_hits"]) == ("ok", 0)
    finally:
        verifiers.close()


def test_attempts_that_differ_only_in_reasoning_nobody_judges_have_one_verdict(verifiers: LocalVerifiers) -> None:
    thought = [attempt_at([f"<think>{n}</think>four"]) for n in range(5)]
    found = verifiers.verify([Job("hostile", Row("hostile/1", "math", "hostile", {}), tuple(thought))])
    assert [verdict.score for verdict in found[0]] == [Score(4.0, {"length": 4.0})] * 5
    assert verifiers.metrics()["verifiers/cache_hits"] == 4


def test_attempts_that_are_compared_stay_together_and_share_a_deadline(verifiers: LocalVerifiers) -> None:
    found = ask(verifiers, "a", "a", "b", environment="groups")
    assert [verdict.score and verdict.score.reward for verdict in found] == [0.0, 1.0, 2.0]
    late = ask(verifiers, "a", "burn 60", "b", environment="groups")
    assert [verdict.status for verdict in late] == ["task"] * 3
    assert late[0].reason == "took longer than 0.9 s"


def test_several_threads_ask_at_once_and_each_gets_its_own(verifiers: LocalVerifiers) -> None:
    found: dict[int, list[Verdict]] = {}

    def one(number: int) -> None:
        found[number] = [v for _ in range(5) for v in ask(verifiers, *("x" * (number + n) for n in range(20)))]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(6):
        assert [v.score and v.score.reward for v in found[number]] == [float(number + n) for n in range(20)] * 5


def test_two_hundred_kills_leak_no_descriptor_and_no_process(tmp_path: Path) -> None:
    others, verifiers = children(), pool(configs(scratch=str(tmp_path)))
    try:
        ask(verifiers, *"abcdefgh", environment="brisk")
        here, before = psutil.Process(), psutil.Process().num_fds()
        found = ask(verifiers, *(f"burn 60 {number}" for number in range(200)), environment="brisk")
        assert {verdict.status for verdict in found} <= {"task", "infrastructure"}  # the latter on a busy machine
        assert verifiers.metrics()["verifiers/restarts"] >= 200
        assert here.num_fds() <= before + 2  # those of the second worker, if it had nothing to do before
        assert len(children() - others) <= 4  # two nurseries, two workers
    finally:
        verifiers.close()
    assert children() <= others


def test_an_environment_that_workers_cannot_build_gives_failures_with_the_traceback() -> None:
    verifiers = pool(configs(fails_to_build=True))
    try:
        (found,) = ask(verifiers, "a")
        assert (found.status, found.score) == ("infrastructure", None)
        assert "RuntimeError: no such library here" in found.reason
    finally:
        verifiers.close()


def test_closing_frees_who_waits_and_ends_everything(tmp_path: Path) -> None:
    others, verifiers = children(), pool(configs(scratch=str(tmp_path), deadline_s=600.0))
    ask(verifiers, "a")
    found: list[Verdict] = []
    waits = threading.Thread(target=lambda: found.extend(ask(verifiers, "burn 600", "sleep 600", "regex", "fine")))
    waits.start()
    time.sleep(0.5)
    began = time.monotonic()
    verifiers.close()
    verifiers.close()
    waits.join(10)
    assert time.monotonic() - began < 5
    assert [verdict.reason for verdict in found[:3]] == ["the verifiers were closed"] * 3
    assert ask(verifiers, "new")[0].reason == "the verifiers were closed"
    assert children() <= others


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.verification.test_local import ask, configs, pool
verifiers = pool(configs(scratch={str(tmp_path)!r}))
ask(verifiers, *map(str, range(20)))
print("ready", flush=True)
ask(verifiers, "sleep 600", "burn 600")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        os.kill(parent.pid, signal.SIGKILL)
    assert all(_gone(worker) for worker in workers)


def test_a_bounded_environment_needs_a_spec() -> None:
    with pytest.raises(ConfigError, match="hostile has a deadline"):
        LocalVerifiers(build_environments(configs(), 0), {})


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Waits for others: every verdict says in which thread it was made."""

    name: str = "judged"
    domain: str = "math"
    concurrency: int = 8

    def score(self, row: Row, answer: str) -> Score:
        if answer == "inline":
            raise ZeroDivisionError
        time.sleep(0.2)
        return Score(1.0, {"thread": float(threading.get_ident())})


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Neither bounded nor waiting."""

    name: str = "inline"
    domain: str = "math"

    def score(self, row: Row, answer: str) -> Score:
        return Score(1.0, {"thread": float(threading.get_ident())})


def test_what_waits_is_judged_in_threads_and_what_is_quick_in_the_caller() -> None:
    verifiers = LocalVerifiers({"judged": Judged(), "inline": Inline()}, {})  # type: ignore[dict-item]
    try:
        began = time.monotonic()
        waited, quick = verifiers.verify([job([str(n) for n in range(8)], "judged"), job(["a", "b"], "inline")])
        assert time.monotonic() - began < 8 * 0.2
        assert len({v.score.parts["thread"] for v in waited if v.score}) == 8
        assert {v.score.parts["thread"] for v in quick if v.score} == {float(threading.get_ident())}
        (raised,) = ask(verifiers, "inline", environment="judged")
        assert (raised.status, raised.reason.splitlines()[0]) == ("data", "ZeroDivisionError: ")
    finally:
        verifiers.close()


def _awaited(file: Path) -> str:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if file.exists() and file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file} was not written")


def _gone(process: psutil.Process) -> bool:
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        return False
    return True
