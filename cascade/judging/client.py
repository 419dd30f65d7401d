"""The client of judge models: questions in, replies out, with deadlines, retries elsewhere, costs and a cache."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from cascade.errors import FailureKind, VerifierFailure
from cascade.judging.cache import FileCache, MemoryCache
from cascade.judging.config import JudgeConfig
from cascade.judging.counts import Counts
from cascade.judging.endpoint import Answer, Candidates, Endpoint, Failed, Refused

END_S = 5.0  # deadline of the thread's end

Question = Sequence[Mapping[str, Any]]
"""Chat messages: `role` and `content`. The roles are the judge's chat template's, which may know others than ours."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said, e.g. `Reply("CORRECT", 812, 3, False, 0.4, "http://127.0.0.1:8000")`."""

    text: str  # without its reasoning
    tokens_in: int  # 0 where the server does not say
    tokens_out: int  # the reasoning included
    cached: bool = False  # nobody was asked, or somebody else asked it at the same time
    wall_s: float = 0.0
    endpoint: str = ""
    last_tokens: Candidates = ()  # where the request asks for log-probs


class Judge:
    """One judge model. Safe to use from any number of threads; `judge_of` hands out one a process and configuration.

    The requests run in a thread of its own, from the first question to `close`.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.counts = Counts(config)
        self._cache = FileCache(config.cache) if config.cache else MemoryCache()
        self._endpoints: list[Endpoint] = []
        self._lock = threading.Lock()
        self._pending: dict[str, Future[Reply]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(config.concurrency)

    def ask(self, messages: Question, sample: int = 0) -> Reply:
        """The judge's reply. Equal questions are asked once; `sample` tells apart those that are to be asked again.

        Raises:
            VerifierFailure: INFRASTRUCTURE when no endpoint answered in time, with who was waited for and how long;
                DATA when the judge refuses the question, with what its server says.
        """
        [found] = self.ask_all([(messages, sample)])
        if isinstance(found, VerifierFailure):
            raise found
        return found

    def ask_all(self, questions: Iterable[tuple[Question, int]]) -> list[Reply | VerifierFailure]:
        """The replies to (messages, sample), in their order, asked at once as far as `concurrency` allows."""
        asked = [self._submit(messages, sample) for messages, sample in questions]
        found: list[Reply | VerifierFailure] = []
        for future, first in asked:
            try:
                reply = future.result()
                found.append(reply if first else replace(reply, cached=True, wall_s=0.0, endpoint=""))
            except VerifierFailure as failure:
                found.append(failure)
        return found

    def metrics(self) -> dict[str, float]:
        """Counts since the start, e.g. `judge/requests`, `judge/cache_hits`, `judge/cost`."""
        endpoints = {f"judge/endpoint_{i}/failures": float(e.failures) for i, e in enumerate(self._endpoints)}
        return {**self.counts.metrics(), "judge/cache_errors": float(self._cache.errors), **endpoints}

    def close(self) -> None:
        """Ends the thread and its connections. Idempotent; the judge cannot be asked afterwards."""
        loop, self._loop = self._loop, None
        if loop is not None:
            ended = [asyncio.run_coroutine_threadsafe(endpoint.close(), loop) for endpoint in self._endpoints]
            for future in ended:
                future.result(END_S)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(END_S)
            loop.close()
        self._cache.close()

    def _submit(self, messages: Question, sample: int) -> tuple[Future[Reply], bool]:
        """The reply to come, and whether it is this question that is charged for."""
        body = self.config.body([_plain(message) for message in messages])
        key = hashlib.sha256(json.dumps([body, sample], sort_keys=True).encode()).hexdigest()
        with self._lock:
            self.counts.add("questions")
            if key in self._pending:
                self.counts.add("cache_hits")
                return self._pending[key], False
            if (kept := self._cache.get(key)) is not None:
                self.counts.add("cache_hits")
                future: Future[Reply] = Future()
                known = Reply(kept.text, kept.tokens_in, kept.tokens_out, True, last_tokens=kept.last_tokens)
                future.set_result(known)
                return future, True
            future = self._start(self._reply(json.dumps(body).encode(), key))
            self._pending[key] = future
        future.add_done_callback(lambda _: self._pending.pop(key, None))
        return future, True

    def _start(self, work: Coroutine[Any, Any, Reply]) -> Future[Reply]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._endpoints = [Endpoint(url, self.config.concurrency) for url in self.config.urls]
            self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _reply(self, body: bytes, key: str) -> Reply:
        async with self._slots:
            started = time.monotonic()
            try:
                answer, url = await self._answer(body, started)
            except VerifierFailure as failure:
                self.counts.add(f"failures/{failure.kind.value}")
                raise
        self.counts.charge(answer)
        if isinstance(self._cache, FileCache):  # whose lock another process may hold for a while
            await asyncio.to_thread(self._cache.put, key, answer)
        else:
            self._cache.put(key, answer)
        wall_s = time.monotonic() - started
        return Reply(answer.text, answer.tokens_in, answer.tokens_out, False, wall_s, url, answer.last_tokens)

    async def _answer(self, body: bytes, started: float) -> tuple[Answer, str]:
        """Asks one endpoint after the other until one answers, or none may in time."""
        deadline = started + self.config.deadline_s
        headers, troubles, failed = self._headers(), [], 0
        while failed <= self.config.retries:
            endpoint = self._next({url for url, _ in troubles})
            rest_s = endpoint.rest_until - time.monotonic()
            if time.monotonic() + max(rest_s, 0.0) >= deadline:
                break
            if rest_s > 0:
                await asyncio.sleep(rest_s)
            self.counts.add("retries" if troubles else "first_requests")
            try:
                left_s = deadline - time.monotonic()
                return await endpoint.ask(body, headers, min(self.config.timeout_s, left_s)), endpoint.url
            except Refused as refused:
                raise VerifierFailure(FailureKind.DATA, f"the judge at {endpoint.url} refuses: {refused}") from None
            except Failed as error:
                self.counts.add(f"errors/{error.trouble}")
                troubles.append((endpoint.url, str(error)))
                failed += error.trouble != "rate_limited"  # it asks for patience, of which the deadline is the measure
        raise _nobody_answered(self.config, troubles, time.monotonic() - started)

    def _next(self, tried: set[str]) -> Endpoint:
        """Whom to ask: who is not at rest or being tried again, who was not asked yet, and who has the least to do."""
        now = time.monotonic()
        return min(
            self._endpoints,
            key=lambda e: (max(e.rest_until - now, 0.0), e.on_probation, e.url in tried, e.in_flight, e.requests),
        )

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if name := self.config.api_key_env:
            if not os.environ.get(name):
                said = f"the judge's key is to be in the environment variable {name}, which is not set"
                raise VerifierFailure(FailureKind.INFRASTRUCTURE, said)
            headers["authorization"] = f"Bearer {os.environ[name]}"
        return headers


_judges: dict[tuple[int, str], Judge] = {}
_judges_lock = threading.Lock()


def judge_of(config: JudgeConfig) -> Judge:
    """The judge of this process with this configuration: the same object for equal ones, so that they share all."""
    key = (os.getpid(), config.identity)  # a forked child has neither the thread nor the connections
    with _judges_lock:
        if key not in _judges:
            _judges[key] = Judge(config)
        return _judges[key]


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    """Role and content; halves of surrogate pairs, which no tokenizer takes, are replaced."""
    content = str(message.get("content") or "")
    return {
        "role": str(message.get("role", "user")),
        "content": content.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    }


def _nobody_answered(config: JudgeConfig, troubles: Sequence[tuple[str, str]], waited_s: float) -> VerifierFailure:
    said = (
        "; ".join(f"{url}: {trouble}" for url, trouble in troubles[-3:]) or "all endpoints are at rest after failures"
    )
    asked = ", ".join(config.urls)
    return VerifierFailure(
        FailureKind.INFRASTRUCTURE,
        f"the judge {config.model} ({asked}) did not answer in {waited_s:.1f} s and {len(troubles)} requests: {said}",
    )
