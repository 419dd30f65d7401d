"""One endpoint: a request to it, what its answers mean, and when it is left alone."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cascade.reasoning import split_reasoning

if TYPE_CHECKING:
    import httpx

Trouble = Literal["connection", "timeout", "rate_limited", "server_error", "access", "garbage"]
TROUBLES: tuple[Trouble, ...] = ("connection", "timeout", "rate_limited", "server_error", "access", "garbage")
ACCESS = (401, 403, 404)  # no key, a wrong one, or no such model or path: not the row's fault, and another may do
FIRST_REST_S, LONGEST_REST_S = 0.25, 5.0
LONGEST_ASKED_REST_S = 600.0  # a server that asks for more may be back before
SHOWN = 500  # characters of an error that are passed on
LAST_TOKENS = 8  # of a reply, of which log-probs are kept


Candidates = tuple[tuple[tuple[str, float], ...], ...]
"""Of each of the last tokens of a reply: what it might have been, with log-probs."""


class Failed(Exception):
    """A request that another endpoint, or the same one later, may answer."""

    def __init__(self, trouble: Trouble, said: str, retry_after_s: float | None = None) -> None:
        super().__init__(said)
        self.trouble: Trouble = trouble
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """A request that was understood and will not be answered, e.g. because it is longer than the judge's context."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge wrote without its reasoning, and what it was charged for, in tokens."""

    text: str
    tokens_in: int
    tokens_out: int
    last_tokens: Candidates = ()  # where the request asks for log-probs


class Endpoint:
    """One server. Used from one event loop."""

    def __init__(self, url: str, connections: int) -> None:
        import httpx  # here: half of what importing an environment would cost

        self.url = url.rstrip("/").removesuffix("/v1")
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        self.rest_until = 0.0  # monotonic seconds; it is not asked before
        self._in_a_row = 0
        self._failed_at = 0.0
        # http is for servers of one's own, which no proxy of the environment may come between.
        self._http = httpx.AsyncClient(
            timeout=None,  # `asyncio.timeout` holds the whole request to its deadline; these hold single reads
            trust_env=self.url.startswith("https://"),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=None, keepalive_expiry=2.0),
        )

    @property
    def on_probation(self) -> bool:
        """It failed last time, and one request is on its way that will tell whether it still does."""
        return self._in_a_row > 0 and self.in_flight > 0

    async def ask(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """One request. Raises `Failed` or `Refused`; a failure sends the endpoint to rest for a moment."""
        started = time.monotonic()
        self.in_flight += 1
        self.requests += 1
        try:
            answer = await self._ask(body, headers, timeout_s)
        except Failed as failed:
            self.failures += 1
            self._in_a_row += started >= self._failed_at  # requests that fail together are one failure in a row
            self._failed_at = time.monotonic()
            rest_s = min(FIRST_REST_S * 2 ** (self._in_a_row - 1), LONGEST_REST_S)
            asked_s = min(failed.retry_after_s or 0.0, LONGEST_ASKED_REST_S)
            self.rest_until = max(self.rest_until, time.monotonic() + max(rest_s, asked_s))
            raise
        finally:
            self.in_flight -= 1
        self._in_a_row = 0
        return answer

    async def _ask(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        import httpx

        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.post(f"{self.url}/v1/chat/completions", content=body, headers=headers)
        except TimeoutError:
            raise Failed("timeout", f"no answer in {timeout_s:.1f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failed("connection", f"{type(error).__name__}: {error}"[:SHOWN]) from None
        _check_status(response)
        return answer_of(response.content)

    async def close(self) -> None:
        await self._http.aclose()


def answer_of(content: bytes) -> Answer:
    """The first choice of a chat completion. Raises `Failed` for anything else."""
    try:
        found = json.loads(content)
        message = found["choices"][0]["message"]
        text = message.get("content")
        usage = found.get("usage") or {}
        charged = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        last_tokens = _last_tokens(found["choices"][0].get("logprobs"))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        shown = content[:SHOWN].decode(errors="replace")
        raise Failed("garbage", f"not a chat completion ({type(error).__name__}): {shown!r}") from None
    if isinstance(text, list):  # parts, as some servers send them
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
    if text is not None and not isinstance(text, str):
        raise Failed("garbage", f"the content is {type(text).__name__}, not text")
    return Answer(split_reasoning(text or "").answer.strip(), *charged, last_tokens)


def _last_tokens(log_probs: Mapping[str, Any] | None) -> Candidates:
    """Candidates of the last tokens, where the server gives them."""
    tokens = (log_probs or {}).get("content") or []
    return tuple(
        tuple((str(each["token"]), float(each["logprob"])) for each in token.get("top_logprobs") or [token])
        for token in tokens[-LAST_TOKENS:]
    )


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    said = f"{status}: {response.text[:SHOWN].strip()}"
    if status == 429:
        raise Failed("rate_limited", said, _seconds(response.headers.get("retry-after")))
    if status == 408:
        raise Failed("timeout", said)
    if status >= 500:
        raise Failed("server_error", said, _seconds(response.headers.get("retry-after")))
    if status in ACCESS:
        raise Failed("access", said)
    if status >= 400:
        raise Refused(said)
    raise Failed("garbage", said)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` as seconds from now: it is given as a number of them or as a date."""
    if retry_after is None:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
