"""What a server answers, or does not, as errors of two kinds: ask another replica, or ask for something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascade.serving.client import Client, Refused, Sampling, Unreachable

Answer = Callable[[str, Any], Awaitable[tuple[int, Any] | None]]
ASKED = Sampling(2, 3, 1.0, 5, [1])


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A server that answers requests one after another: (path, body) -> (status, JSON), or None to hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                lengths = [
                    line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length")
                ]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                found = await answer(head.split()[1], json.loads(body) if body else None)
                if found is None:
                    break
                text = json.dumps(found[1]).encode()
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (found[0], len(text)) + text)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        listening.close()


def choice(index: int) -> dict[str, Any]:
    """A sample of two tokens by two versions."""
    content = [{"token_id": 7, "logprob": -0.5}, {"token_id": 8, "logprob": -0.25 * (index + 1)}]
    spans = [{"version": "1.2", "start": 0, "end": 1}, {"version": "1.3", "start": 1, "end": 2}]
    return {
        "index": index,
        "token_ids": [7, 8],
        "finish_reason": "length",
        "logprobs": {"content": content},
        "weight_versions": spans,
    }


def run(answer: Answer, work: Callable[[Client], Awaitable[None]], timeout_s: float = 5.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20), server(answer) as url:
            client = Client(url, timeout_s)
            await work(client)
            await client.close()

    asyncio.run(bounded())


def test_samples_come_back_in_the_order_of_their_seeds() -> None:
    seen: list[Any] = []

    async def answer(path: str, body: Any) -> tuple[int, Any]:
        seen.append((path, body))
        return 200, {"choices": [choice(1), choice(0)]}

    async def work(client: Client) -> None:
        first, second = await client.generate([3, 4], ASKED, "name")
        assert first.token_ids == (7, 8)
        assert first.versions == (("1.2", 1), ("1.3", 1))
        assert (first.log_probs, second.log_probs) == ((-0.5, -0.25), (-0.5, -0.5))

    run(answer, work)
    path, body = seen[0]
    assert path == "/inference/v1/generate"
    assert (body["token_ids"], body["request_id"], body["sampling_params"]["n"]) == ([3, 4], "name", 2)
    assert body["sampling_params"]["stop_token_ids"] == [1]


@pytest.mark.parametrize(
    "answer, kind, message",
    (
        ((400, {"error": {"message": "too long"}}), Refused, "answered 400: too long"),
        ((500, {"error": {"message": "engine dead"}}), Unreachable, "answered 500: engine dead"),
        ((503, "busy"), Unreachable, "answered 503"),
        ((200, {"choices": [choice(0)]}), Unreachable, "1 of 2 samples"),
        (None, Unreachable, "broke off"),
    ),
)
def test_failures_are_of_two_kinds_and_say_what_the_server_said(
    answer: tuple[int, Any] | None, kind: type[Exception], message: str
) -> None:
    async def always(path: str, body: Any) -> tuple[int, Any] | None:
        return answer

    async def work(client: Client) -> None:
        with pytest.raises(kind, match=message):
            await client.generate([3], ASKED, "name")
        assert await client.healthy() is (answer is not None and answer[0] == 200)

    run(always, work)


def test_a_server_that_is_not_there_is_unreachable() -> None:
    async def work() -> None:
        client = Client("http://127.0.0.1:9", 1.0)
        assert not await client.healthy()
        with pytest.raises(Unreachable, match=r"http://127.0.0.1:9/weight_info broke off"):
            await client.weight_version()
        await client.close()

    asyncio.run(work())


def test_a_request_has_a_deadline_and_a_pause_stops_its_clock() -> None:
    async def answer(path: str, body: Any) -> tuple[int, Any]:
        if path == "/inference/v1/generate":
            await asyncio.sleep(1.0)
        return 200, {"choices": [choice(0), choice(1)]}

    async def work(client: Client) -> None:
        with pytest.raises(Unreachable, match="did not answer in 0 s"):
            await client.generate([3], ASKED, "late")
        request = asyncio.create_task(client.generate([3], ASKED, "paused"))
        await asyncio.sleep(0.1)
        await client.pause()
        assert len(await request) == 2  # after more than its deadline
        await client.resume()

    run(answer, work, timeout_s=0.4)
