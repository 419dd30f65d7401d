"""A replica as the pool knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.serving.arguments import require_vllm, served_environment
from cascade.serving.client import Client
from cascade.serving.replica import Replica
from cascade.serving.routing import Lane


@dataclass(eq=False)
class Member:
    """A replica: started by us, or known by its URL only."""

    client: Client
    lane: Lane  # live: takes requests
    process: Replica | None = None
    up: bool = False  # answers, and takes part in publishing; live once it has the current weights
    life: int = 0  # counts recoveries: what failed in an earlier life says nothing about this one
    broken: bool = False  # an update ended between start and finish: never to be resumed
    strikes: int = 0  # requests that failed in a row
    started_from: Path | None = None
    logit_scale: float = 1.0
    lost: EngineError | None = None  # given up, and why
    trouble: asyncio.Event = field(default_factory=asyncio.Event)
    rescaling: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """For messages."""
        return self.lane.name


def started_members(rollout: RolloutConfig, folder: Path) -> list[Member]:
    """Members whose servers this process starts, none of them started yet. Raises `EngineError` without vLLM."""
    require_vllm()
    found = []
    for index in range(rollout.replicas):
        replica = Replica(index, served_environment(index, rollout), folder / f"replica_{index}.log")
        client = Client(f"http://127.0.0.1:{replica.port}", rollout.request_timeout_s)
        found.append(Member(client, Lane(f"replica {index}"), replica))
    return found


def known_members(urls: Sequence[str], rollout: RolloutConfig) -> list[Member]:
    """Members whose servers somebody else starts."""
    return [Member(Client(url, rollout.request_timeout_s), Lane(f"the server at {url}")) for url in urls]
