"""The calls to one vLLM server over HTTP: tokens in, tokens and log-probs out, and the phases of a publish."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cascade.errors import EngineError
from cascade.serving.arguments import MODEL

HEALTH_S = 30.0  # deadline of a question that a healthy server answers at once, unless the machine is overloaded
REQUEST_PREFIX = "generate-tokens-"  # what vLLM puts before the id of a request of this route


class Unreachable(EngineError):
    """A server that does not answer, not in time, or with a failure of its own: another one may do better."""


class Refused(EngineError):
    """A server that understood the request and will not do it; no other one will."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is asked for: `count` continuations of at most `max_tokens` tokens; sample i draws with `seed + i`."""

    count: int
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation, e.g. 3 tokens, of which the first two by version "1.4" and the last by "1.5"."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # at the sampling temperature, nats
    versions: tuple[tuple[str, int], ...]  # weight version and its number of tokens, in order
    finish_reason: str  # stop, length or abort
    routed_experts: str | None = None  # base64 of an .npy file, [N, layers, K]: of prompt and tokens but the last


TopLogProbs = dict[int, float]
"""Token id -> log-prob in nats: the token itself and the likeliest ones."""


class Client:
    """One server at `url`. Belongs to one event loop."""

    def __init__(self, url: str, request_timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.request_timeout_s = request_timeout_s
        # A connection is dropped before the server would: vLLM closes idle ones after 5 s if nobody told it otherwise.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
        self._http = httpx.AsyncClient(base_url=self.url, timeout=None, limits=limits, trust_env=False)
        self._deadlines: set[asyncio.Timeout] = set()  # of requests that a pause stretches
        self._paused_at: float | None = None

    async def generate(self, token_ids: Sequence[int], asked: Sampling, request_id: str) -> list[Continuation]:
        """The continuations, in the order of their seeds."""
        parameters = {
            "n": asked.count,
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
            "ignore_eos": True,  # vLLM's own; ours are these:
            "stop_token_ids": list(asked.stop_ids),
            "logprobs": 0,
            "detokenize": False,
        }
        answer = await self._inference(token_ids, parameters, request_id)
        found = {choice["index"]: _sample(choice) for choice in answer["choices"]}
        if set(found) != set(range(asked.count)):
            raise Unreachable(f"{self.url} sent {len(found)} of {asked.count} samples.", "See the server's log.")
        return [found[index] for index in range(asked.count)]

    async def score(self, token_ids: Sequence[int], top_k: int = 0) -> list[TopLogProbs]:
        """For every token its log-prob after those before it, and the `top_k` likeliest; empty for the first token."""
        parameters = {"max_tokens": 1, "prompt_logprobs": top_k, "temperature": 0.0, "detokenize": False}
        answer = await self._inference(token_ids, parameters, None)
        return [{int(i): p["logprob"] for i, p in (entry or {}).items()} for entry in answer["prompt_logprobs"]]

    async def healthy(self) -> bool:
        """Whether the server says that it and its engine are well."""
        try:
            async with asyncio.timeout(HEALTH_S):
                return (await self._http.get("/health")).status_code == httpx.codes.OK
        except (httpx.HTTPError, TimeoutError):
            return False

    async def weight_version(self) -> str:
        """The name of the weights it has; `default` until it is told one."""
        return (await self._call("GET", "/weight_info", HEALTH_S))["weight_version"]

    async def name_weights(self, version: str) -> None:
        """Names the weights that it has."""
        await self._post("/update_weight_version", {"new_version": version})

    async def pause(self) -> None:
        """Samples no further token until `resume`; requests stay, and their deadlines wait."""
        await self._post("/pause?mode=keep")
        now = asyncio.get_running_loop().time()
        self._paused_at = self._paused_at or now
        for deadline in self._deadlines:
            deadline.reschedule(None)

    async def resume(self) -> None:
        """The inverse of `pause`."""
        await self._post("/resume")
        self._paused_at = None
        again = asyncio.get_running_loop().time() + self.request_timeout_s
        for deadline in self._deadlines:
            deadline.reschedule(again)

    async def init_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Prepares the way that weights will come."""
        await self._post("/init_weight_transfer_engine", {"init_info": dict(init_info)})

    async def start_update(self) -> None:
        """From here to `finish_update` the weights are in pieces."""
        await self._post("/start_weight_update")

    async def update(self, update_info: Mapping[str, Any]) -> None:
        """Takes over one bucket of weights."""
        await self._post("/update_weights", {"update_info": dict(update_info)})

    async def finish_update(self, version: str) -> None:
        """Puts the weights together and names them."""
        await self._post("/finish_weight_update", {"weight_version": version})

    async def abort_requests(self, request_ids: Sequence[str]) -> None:
        """Ends these requests: their calls return the tokens they have, finish reason `abort`."""
        await self._post("/abort_requests", {"request_ids": [REQUEST_PREFIX + name for name in request_ids]})

    async def collective_rpc(self, method: str, *arguments: Any, **named: Any) -> None:
        """Calls a method of the workers."""
        await self._post("/collective_rpc", {"method": method, "args": list(arguments), "kwargs": named})

    async def close(self) -> None:
        """Drops all connections."""
        await self._http.aclose()

    async def _inference(self, token_ids: Sequence[int], parameters: dict[str, Any], name: str | None) -> Any:
        body = {"model": MODEL, "token_ids": list(token_ids), "sampling_params": parameters}
        if name is not None:
            body["request_id"] = name
        return await self._call("POST", "/inference/v1/generate", self.request_timeout_s, body, pausable=True)

    async def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return await self._call("POST", path, self.request_timeout_s, body or {})

    async def _call(
        self, method: str, path: str, deadline_s: float, body: Any = None, *, pausable: bool = False
    ) -> Any:
        what = f"{self.url}{path.partition('?')[0]}"
        try:
            async with asyncio.timeout(None if pausable and self._paused_at else deadline_s) as deadline:
                if pausable:
                    self._deadlines.add(deadline)
                try:
                    response = await self._http.request(method, path, json=body)
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError as error:
            raise Unreachable(f"{what} did not answer in {deadline_s:.0f} s.", "See the server's log.") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{what} broke off: {error!r}.", "See the server's log.") from error
        if response.status_code == httpx.codes.OK:
            return response.json()
        kind = Unreachable if response.is_server_error else Refused
        raise kind(f"{what} answered {response.status_code}: {_message(response)}", "See the server's log.")


def _sample(choice: Any) -> Continuation:
    spans = choice["weight_versions"] or []
    content = (choice["logprobs"] or {}).get("content") or []
    return Continuation(
        tuple(choice["token_ids"]),
        tuple(entry["logprob"] for entry in content),
        tuple((span["version"], span["end"] - span["start"]) for span in spans),
        choice["finish_reason"],
        choice.get("routed_experts"),
    )


def _message(response: httpx.Response) -> str:
    """What the server says went wrong: vLLM's own field where there is one, else the beginning of the body."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
