"""The client of judges against real HTTP servers: retries elsewhere, deadlines, failures by kind, cache, cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigError, FailureKind, VerifierFailure
from cascade.judging.client import Judge, judge_of
from cascade.judging.config import JudgeConfig
from tests.judging.judge_server import Canned, JudgeServer, completion, last_content

QUESTION = [{"role": "user", "content": "Is 4 the sum of 2 and 2?"}]


def config(*urls: str, **changes: Any) -> JudgeConfig:
    return JudgeConfig(**{"urls": urls, "model": "judge", "timeout_s": 5.0, "deadline_s": 10.0, **changes})


def questions(count: int) -> list[tuple[list[dict[str, str]], int]]:
    return [([{"role": "user", "content": str(i)}], 0) for i in range(count)]


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A port that is taken and not listened at, so that connections to it are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def failure_of(judge: Judge) -> VerifierFailure:
    with pytest.raises(VerifierFailure) as caught:
        judge.ask(QUESTION)
    return caught.value


def test_a_question_is_posted_as_a_chat_completion_and_its_reply_comes_without_reasoning() -> None:
    with JudgeServer(lambda _: "<think>2 + 2 </think>\n CORRECT \n") as server:
        asked = config(f"{server.url}/v1/", temperature=0.6, top_p=0.95, max_tokens=77, extra={"min_p": 0.1})
        reply = Judge(asked).ask(QUESTION)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.cached) == ("CORRECT", 100, 10, False)
    assert reply.endpoint == server.url
    assert reply.wall_s > 0
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 77, "min_p": 0.1}
    assert server.requests == [{"model": "judge", "messages": QUESTION, **sampling}]


@pytest.mark.parametrize(
    "body, text",
    [
        (completion("no", reasoning_content="yes yes"), "no"),
        (completion(None, reasoning_content="cut for length"), ""),
        (completion("<think>never ended, CORRECT"), ""),
        (json.dumps({"choices": [{"message": {"content": [{"type": "text", "text": "parts"}]}}]}), "parts"),
    ],
)
def test_reasoning_is_no_part_of_a_reply(body: str, text: str) -> None:
    with JudgeServer(lambda _: Canned(body=body)) as server:
        assert Judge(config(server.url)).ask(QUESTION).text == text


def test_a_dead_endpoint_costs_one_request_and_the_next_one_answers(dead_url: str) -> None:
    with JudgeServer(lambda _: "yes") as server:
        judge = Judge(config(dead_url, server.url))
        assert judge.ask(QUESTION).endpoint == server.url
        metrics = judge.metrics()
    assert metrics["judge/errors/connection"] == metrics["judge/retries"] == 1
    assert metrics["judge/requests"] == 2
    assert metrics["judge/endpoint_0/failures"] == 1
    assert metrics["judge/failures/infrastructure"] == 0


def test_an_endpoint_that_failed_is_left_alone_for_a_while(dead_url: str) -> None:
    with JudgeServer(lambda _: "yes") as server:
        judge = Judge(config(dead_url, server.url))
        for messages, _ in questions(30):
            assert judge.ask(messages).text == "yes"
        assert judge.metrics()["judge/errors/connection"] < 8  # its rests double: 0.25 s, 0.5 s, 1 s, ...


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_a_server_error_is_asked_again_of_the_same_endpoint_where_there_is_no_other(status: int) -> None:
    said = iter([Canned(status, "overloaded"), "yes"])
    with JudgeServer(lambda _: next(said)) as server:
        judge = Judge(config(server.url))
        assert judge.ask(QUESTION).text == "yes"
        assert judge.metrics()["judge/retries"] == 1


@pytest.mark.parametrize("garbage", ["", "not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}'])
def test_garbage_is_a_failure_of_the_endpoint_and_never_a_reply(garbage: str) -> None:
    with JudgeServer(lambda _: Canned(body=garbage)) as bad, JudgeServer(lambda _: "yes") as good:
        assert Judge(config(bad.url, good.url)).ask(QUESTION).text == "yes"
        judge = Judge(config(bad.url, retries=1))
        failure = failure_of(judge)
    assert failure.kind is FailureKind.INFRASTRUCTURE
    assert "not a chat completion" in failure.detail
    assert judge.metrics()["judge/errors/garbage"] == 2


@pytest.mark.parametrize("canned", [Canned(body=completion("late"), delay_s=8.0), Canned(body=" " * 500, drip_s=0.05)])
def test_a_slow_endpoint_is_given_up_at_the_deadline_of_a_request_and_another_one_answers(canned: Canned) -> None:
    with JudgeServer(lambda _: canned) as slow, JudgeServer(lambda _: "yes") as fast:
        judge = Judge(config(slow.url, fast.url, timeout_s=0.4))
        started = time.monotonic()
        assert judge.ask(QUESTION).text == "yes"
        assert time.monotonic() - started < 5.0
    assert judge.metrics()["judge/errors/timeout"] == 1


def test_requests_that_were_given_up_leave_no_connection_behind() -> None:
    slow = iter([True] * 8)

    def late(_: Any) -> Canned:
        return Canned(body=completion("yes"), delay_s=1.0 if next(slow, False) else 0.0)

    with JudgeServer(late) as server:
        judge = Judge(config(server.url, concurrency=2, timeout_s=0.2, retries=20))
        replies = judge.ask_all(questions(12))
    assert [reply.text for reply in replies if not isinstance(reply, VerifierFailure)] == ["yes"] * 12


def test_the_deadline_of_a_verdict_holds_over_all_retries_and_the_failure_says_who_was_waited_for() -> None:
    with JudgeServer(lambda _: Canned(delay_s=5.0)) as slow:
        judge = Judge(config(slow.url, timeout_s=0.5, deadline_s=1.2, retries=50))
        started = time.monotonic()
        failure = failure_of(judge)
        took = time.monotonic() - started
    assert took < 2.5
    assert failure.kind is FailureKind.INFRASTRUCTURE
    assert slow.url in failure.detail
    assert "no answer in 0.5 s" in failure.detail
    assert "judge judge" in failure.detail
    assert judge.metrics()["judge/failures/infrastructure"] == 1


def test_with_all_endpoints_dead_it_fails_after_its_retries(dead_url: str) -> None:
    judge = Judge(config(dead_url, retries=2))
    assert failure_of(judge).kind is FailureKind.INFRASTRUCTURE
    assert judge.metrics()["judge/requests"] == 3
    assert judge.metrics()["judge/errors/connection"] == 3


@pytest.mark.parametrize("retry_after", ["0.6", "date"])
def test_a_rate_limit_is_waited_for_as_long_as_the_server_asks(retry_after: str) -> None:
    times: list[float] = []

    def limited(_: Any) -> Canned | str:
        times.append(time.time())
        until = formatdate(time.time() + 2, usegmt=True) if retry_after == "date" else retry_after
        return Canned(429, "slowly", {"Retry-After": until}) if len(times) == 1 else "yes"

    with JudgeServer(limited) as server:
        judge = Judge(config(server.url, retries=0))
        assert judge.ask(QUESTION).text == "yes"
    assert times[1] - times[0] >= 0.6
    assert judge.metrics()["judge/errors/rate_limited"] == 1


def test_a_rate_limit_beyond_the_deadline_fails_at_once() -> None:
    with JudgeServer(lambda _: Canned(429, "tomorrow", {"Retry-After": "86400"})) as server:
        judge = Judge(config(server.url))
        started = time.monotonic()
        failure = failure_of(judge)
    assert time.monotonic() - started < 2.0
    assert failure.kind is FailureKind.INFRASTRUCTURE
    assert "tomorrow" in failure.detail


def test_a_rate_limit_sends_the_question_to_another_endpoint() -> None:
    limited = Canned(429, "slowly", {"Retry-After": "60"})
    with JudgeServer(lambda _: limited) as busy, JudgeServer(lambda _: "yes") as free:
        judge = Judge(config(busy.url, free.url))
        assert [reply.text for reply in judge.ask_all(questions(9)) if not isinstance(reply, VerifierFailure)] == [
            "yes"
        ] * 9


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_is_a_failure_of_the_row_with_what_the_server_says(status: int) -> None:
    with JudgeServer(lambda _: Canned(status, "maximum context length is 4096 tokens")) as server:
        judge = Judge(config(server.url, server.url))
        failure = failure_of(judge)
    assert failure.kind is FailureKind.DATA
    assert f"{status}: maximum context length is 4096 tokens" in failure.detail
    assert len(server.requests) == 1
    assert judge.metrics()["judge/failures/data"] == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_no_fault_of_the_row(status: int) -> None:
    with JudgeServer(lambda _: Canned(status, "no such model")) as wrong, JudgeServer(lambda _: "yes") as right:
        assert Judge(config(wrong.url, right.url)).ask(QUESTION).text == "yes"
        failure = failure_of(Judge(config(wrong.url, retries=0)))
    assert failure.kind is FailureKind.INFRASTRUCTURE
    assert "no such model" in failure.detail


def test_the_key_comes_from_the_environment_and_its_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_JUDGES_KEY", "secret")
    with JudgeServer(lambda _: "yes") as server:
        Judge(config(server.url, api_key_env="A_JUDGES_KEY")).ask(QUESTION)
        monkeypatch.delenv("A_JUDGES_KEY")
        failure = failure_of(Judge(config(server.url, api_key_env="A_JUDGES_KEY")))
    assert [headers["authorization"] for headers in server.headers] == ["Bearer secret"]
    assert failure.kind is FailureKind.INFRASTRUCTURE
    assert "A_JUDGES_KEY" in failure.detail


def test_no_more_requests_are_on_their_way_than_asked_for_and_connections_are_reused() -> None:
    def slow(body: dict[str, Any]) -> Canned:
        return Canned(body=completion(last_content(body)), delay_s=0.02)

    with JudgeServer(slow) as server:
        judge = Judge(config(server.url, concurrency=3))
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda q: judge.ask(*q).text, questions(40)))
    assert replies == [str(i) for i in range(40)]
    assert 1 < server.most_at_once <= 3
    assert server.connections <= 3


def test_questions_are_spread_over_endpoints_that_answer() -> None:
    with JudgeServer(lambda _: "a") as one, JudgeServer(lambda _: "b") as two:
        Judge(config(one.url, two.url)).ask_all(questions(30))
    assert min(len(one.requests), len(two.requests)) >= 10


def test_equal_questions_at_the_same_time_are_asked_once() -> None:
    with JudgeServer(lambda _: Canned(body=completion("yes"), delay_s=0.3)) as server:
        judge = Judge(config(server.url))
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: judge.ask(QUESTION), range(8)))
    assert {reply.text for reply in replies} == {"yes"}
    assert sorted(reply.cached for reply in replies) == [False] + [True] * 7
    assert len(server.requests) == 1


def test_a_kept_reply_costs_nothing_and_another_sample_is_asked_for() -> None:
    with JudgeServer(lambda _: Canned(body=completion("yes", 2_000_000, 500_000))) as server:
        prices = {"price_per_million_input": 0.5, "price_per_million_output": 4.0}
        judge = Judge(config(server.url, **prices))
        assert [judge.ask(QUESTION, sample).cached for sample in (0, 0, 1, 0)] == [False, True, False, True]
    metrics = judge.metrics()
    assert len(server.requests) == metrics["judge/requests"] == 2
    assert metrics["judge/questions"] == 4
    assert metrics["judge/cache_hits"] == 2
    assert metrics["judge/tokens_in"] == 4_000_000
    assert metrics["judge/tokens_out"] == 1_000_000
    assert metrics["judge/cost"] == 2 * 1.0 + 2 * 2.0
    assert all(isinstance(value, float) for value in metrics.values())


def test_a_failure_is_not_kept() -> None:
    said = iter([Canned(500), "yes"])
    with JudgeServer(lambda _: next(said)) as server:
        judge = Judge(config(server.url, retries=0))
        assert failure_of(judge).kind is FailureKind.INFRASTRUCTURE
        assert judge.ask(QUESTION).text == "yes"


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"max_tokens": 5}, {"model": "other"}, {"extra": {"k": 1}}])
def test_replies_are_kept_by_model_messages_and_sampling(tmp_path: Path, changes: dict[str, Any]) -> None:
    with JudgeServer(lambda _: "yes") as server:
        cache = str(tmp_path / "replies.sqlite")
        Judge(config(server.url, cache=cache)).ask(QUESTION)
        assert Judge(config(server.url, cache=cache)).ask(QUESTION).cached
        assert not Judge(config(server.url, cache=cache, **changes)).ask(QUESTION).cached


def test_a_cache_file_serves_several_processes_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from cascade.judging.client import Judge; from cascade.judging.config import JudgeConfig\n"
        "judge = Judge(JudgeConfig(urls=(sys.argv[1],), model='judge', cache=sys.argv[2]))\n"
        "replies = judge.ask_all([([{'role': 'user', 'content': str(i)}], 0) for i in range(50)])\n"
        "print([r.text for r in replies], sum(r.cached for r in replies), judge.metrics()['judge/cache_errors'])\n"
    )
    with JudgeServer(last_content) as server:
        command = [sys.executable, "-c", program, server.url, str(tmp_path / "new" / "replies.sqlite")]
        together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=60)[0] for process in together]
        asked = len(server.requests)
        afterwards = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    expected = str([str(i) for i in range(50)])
    assert all(text.startswith(expected) and text.endswith(" 0.0\n") for text in said)
    assert afterwards == f"{expected} 50 0.0\n"
    assert len(server.requests) == asked


def test_judges_of_equal_configurations_are_one_and_a_forked_child_has_its_own() -> None:
    with JudgeServer(lambda _: "yes") as server:
        judge = judge_of(config(server.url))
        assert judge_of(config(server.url)) is judge
        assert judge_of(config(server.url, temperature=0.1)) is not judge
        judge.ask(QUESTION)
        child = os.fork()
        if child == 0:
            fresh = judge_of(config(server.url))
            right = fresh is not judge and fresh.ask(QUESTION).text == "yes"
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_judge_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with JudgeServer(lambda _: "yes") as server:
        judge = Judge(config(server.url))
        judge.ask(QUESTION)
        [own] = [thread for thread in set(threading.enumerate()) - before if thread.name == "judge"]
        judge.close()
        judge.close()
    assert not own.is_alive()


@pytest.mark.parametrize("text", ["\ud800 half a pair", "nul \0", "x" * 5_000_000, "🙂"])
def test_any_text_can_be_asked_about(text: str) -> None:
    with JudgeServer(lambda body: f"{len(last_content(body))}") as server:
        assert Judge(config(server.url)).ask([{"role": "user", "content": text}]).text == str(len(text))


def test_it_is_read_from_a_recipe_and_a_wrong_key_or_value_is_refused() -> None:
    from pydantic import TypeAdapter, ValidationError

    read = TypeAdapter(JudgeConfig).validate_json
    given = {"urls": ["http://a:8000", "https://b"], "model": "m", "temperature": 1, "extra": {"min_p": 0.1}}
    assert read(json.dumps(given), strict=True) == JudgeConfig(
        urls=("http://a:8000", "https://b"), model="m", temperature=1.0, extra={"min_p": 0.1}
    )
    for wrong in ({"modle": "m"}, {"max_tokens": "5"}, {"concurrency": 1.5}, {"urls": "http://a"}):
        with pytest.raises(ValidationError):
            read(json.dumps({**given, **wrong}), strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"urls": ()},
        {"urls": ("localhost:8000",)},
        {"model": ""},
        {"timeout_s": 0.0},
        {"concurrency": 0},
        {"retries": -1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"extra": {"messages": []}},
        {"price_per_million_input": -1.0},
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        JudgeConfig(**{"urls": ("http://a",), "model": "m", **changes})
