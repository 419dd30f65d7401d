"""A judge over real HTTP whose replies a test writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Canned:
    """An HTTP response as it is sent."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0  # between the bytes of the body


def completion(text: str | None, tokens_in: int = 100, tokens_out: int = 10, **message: Any) -> str:
    """The body of a chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})


Answers = Callable[[dict[str, Any]], str | Canned]
"""From the request's body to what the judge writes, or to a whole response."""


class JudgeServer:
    """Serves from entering to leaving the context; remembers what it was asked."""

    def __init__(self, answers: Answers) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._answers = answers
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, body: dict[str, Any], headers: Mapping[str, str]) -> Canned:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            said = self._answers(body)
            canned = said if isinstance(said, Canned) else Canned(body=completion(said))
            time.sleep(canned.delay_s)
            return canned
        finally:
            with self._lock:
                self._now -= 1


def _handler(judge: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            judge.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/chat/completions":
                canned = Canned(404, f"no {self.path}")
            else:
                canned = judge.respond(body, dict(self.headers))
            content = canned.body.encode()
            try:
                self.send_response(canned.status)
                for name, value in {**canned.headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                for at in range(0, len(content), 1 if canned.drip_s else len(content) or 1):
                    self.wfile.write(content[at : at + (1 if canned.drip_s else len(content))])
                    time.sleep(canned.drip_s)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def last_content(body: Mapping[str, Any]) -> str:
    """The text of the last message that a judge was sent."""
    return body["messages"][-1]["content"]
