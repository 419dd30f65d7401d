"""Which judge model is asked, where, and how long a verdict may take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ConfigDict

from cascade.errors import ConfigError

OWN_KEYS = ("model", "messages", "temperature", "max_tokens", "top_p", "stream", "n")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """One judge model behind one or more endpoints that serve `/v1/chat/completions`.

    `urls` are written with or without `/v1`. Raises `ConfigError` for values that cannot mean anything.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    urls: tuple[str, ...]
    model: str
    api_key_env: str | None = None  # name of the environment variable that holds the key
    temperature: float = 0.0
    max_tokens: int = 4096  # of a reply, the judge's reasoning included
    top_p: float | None = None
    timeout_s: float = 300.0  # deadline of one request
    deadline_s: float = 900.0  # of one verdict over all its requests, from the moment that the first is sent
    retries: int = 3  # after the first request, each on another endpoint where there is one
    concurrency: int = 16  # requests on their way at once, over all endpoints
    price_per_million_input: float = 0.0  # of tokens, in the currency of your choice
    price_per_million_output: float = 0.0
    cache: str | None = None  # SQLite file that keeps replies; None: the latest 10,000 in memory
    extra: dict[str, Any] = field(default_factory=dict, hash=False)  # further keys of the request's body

    def __post_init__(self) -> None:
        if not self.urls or not all(url.startswith(("http://", "https://")) for url in self.urls):
            raise ConfigError(f"The judge's urls are {list(self.urls)}.", "Give e.g. [http://127.0.0.1:8000].")
        if not self.model:
            raise ConfigError("The judge has no model.", "Give the name that its server knows it by.")
        for key in ("max_tokens", "timeout_s", "deadline_s", "concurrency"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"The judge's {key} is {getattr(self, key)}.", "Give a number above 0.")
        for key in ("temperature", "retries", "price_per_million_input", "price_per_million_output"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"The judge's {key} is {getattr(self, key)}.", "Give 0 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"The judge's top_p is {self.top_p}.", "Give a number above 0, at most 1.")
        if own := [key for key in OWN_KEYS if key in self.extra]:
            raise ConfigError(f"The judge's extra keys name `{own[0]}`.", "Set the judge's own key, if it has one.")

    @cached_property
    def identity(self) -> str:
        """One text for equal configurations."""
        return json.dumps(asdict(self), sort_keys=True)

    def body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """What is posted for these messages."""
        sampling: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if self.top_p is not None:
            sampling["top_p"] = self.top_p
        return {"model": self.model, "messages": messages, **sampling, **self.extra}
