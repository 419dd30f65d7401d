"""Where the processes of a run find each other first: a key-value store at rank 0, and a roll call with a deadline."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from cascade.errors import EngineError

HELLO_S = 0.5  # between two hellos


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs, e.g. `Place(3, 1, "node2", "10.0.0.2")`."""

    rank: int
    local_rank: int
    node: str  # host name
    address: str  # IP by which the others reach it

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.node}"


class Meeting:
    """All ranks of a launcher, found through a store at rank 0's node. Every wait has a deadline.

    Args:
        timeout_s: for all to be there. Who came is in `places`, the same on all of them; nobody is waited for again.

    Raises `EngineError` when rank 0 cannot open the store, or does not answer there.
    """

    def __init__(self, timeout_s: float) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.timeout_s = timeout_s
        host = os.environ["MASTER_ADDR"]
        self.where = f"{host}:{os.environ['MASTER_PORT']}"
        opens = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun has
        try:
            store = _store(opens, timeout_s)
            self.place = Place(self.rank, int(os.environ.get("LOCAL_RANK", "0")), socket.gethostname(), _address(host))
            met = self._welcome(store) if self.rank == 0 else self._ask_in(store)
        except (dist.DistError, OSError) as error:
            raise EngineError(
                f"Rank {self.rank} on {socket.gethostname()} cannot {'open' if opens else 'reach'} the meeting point "
                f"of all ranks at {self.where} ({str(error).splitlines()[0]}).",
                "Check that rank 0 was started, that its name resolves on every node to an address the others reach, "
                "and that the port is free and open.",
            ) from error
        self.places = [Place(**place) for place in met["places"]]
        self.store = PrefixStore(f"cascade/{met['session']}", store)

    def require_all(self) -> list[Place]:
        """The place of every rank. Raises `EngineError` naming the ranks that have not come."""
        missing = sorted(set(range(self.world_size)) - {place.rank for place in self.places})
        if missing:
            raise EngineError(
                f"{ranks(missing)} of {self.world_size} did not come to {self.where} in {self.timeout_s:.0f} s; "
                f"{', '.join(map(str, self.places))} did.",
                "See how the others ended: the first error is in their own output.",
            )
        return self.places

    def group_store(self) -> PrefixStore:
        """What a process group of all ranks begins with."""
        return PrefixStore("group", self.store)

    def tell(self, key: str, value: Any) -> None:
        """Leaves a JSON value of this rank."""
        self.store.set(f"{key}/{self.rank}", json.dumps(value))

    def told(self, key: str, rank: int, timeout_s: float) -> Any:
        """What `rank` has left under `key`; None when it is not there in time."""
        return _read(self.store, f"{key}/{rank}", time.monotonic() + timeout_s)

    def gather(self, key: str, timeout_s: float, of: Sequence[int] | None = None) -> dict[int, Any]:
        """rank -> what it has left under `key`, of those that have in time. The deadline is for all together."""
        until = time.monotonic() + timeout_s
        asked = range(self.world_size) if of is None else of
        found = {rank: _read(self.store, f"{key}/{rank}", until) for rank in asked}
        return {rank: value for rank, value in found.items() if value is not None}

    def _welcome(self, store: TCPStore) -> dict[str, Any]:
        """Rank 0: waits for the others, and gives them a name for this meeting that no earlier one had.

        torchrun's store is older than its processes: after a restart it holds what those before have left, and its
        count of restarts can differ between nodes. So every rank comes under a new name, and says it until answered.
        """
        others = range(1, self.world_size)
        for rank in others:
            store.delete_key(f"hello/{rank}")
        until = time.monotonic() + self.timeout_s
        found = {rank: _read(store, f"hello/{rank}", until) for rank in others}
        came = [hello for hello in found.values() if hello]
        places = [asdict(self.place), *(hello["place"] for hello in came)]
        met = {"session": uuid.uuid4().hex, "places": places}
        for hello in came:
            store.set(f"welcome/{hello['name']}", json.dumps(met))
        return met

    def _ask_in(self, store: TCPStore) -> dict[str, Any]:
        name = uuid.uuid4().hex
        until = time.monotonic() + 2 * self.timeout_s  # rank 0 may have come as late as is allowed, and waits as long
        while time.monotonic() < until:
            store.set(f"hello/{self.rank}", json.dumps({"name": name, "place": asdict(self.place)}))
            met = _read(store, f"welcome/{name}", min(until, time.monotonic() + HELLO_S))
            if met is not None:
                return met
        raise EngineError(
            f"Rank 0 at {self.where} did not answer {self.place} in {2 * self.timeout_s:.0f} s.", "See its own output."
        )


def ranks(numbers: list[int]) -> str:
    """For messages: `Rank 3` or `Ranks 3, 5`."""
    return f"Rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _address(towards: str) -> str:
    """This machine's address on the way to `towards`. Sends nothing."""
    family, kind, _, _, peer = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(peer)
        return probe.getsockname()[0]


def _store(opens: bool, timeout_s: float) -> TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=opens, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def _read(store: Store, key: str, until: float) -> Any:
    """The JSON value of `key`, once it is there; None when it is not by `until`, on the monotonic clock."""
    pause_s = 0.002
    while not store.check([key]):
        if time.monotonic() > until:
            return None
        time.sleep(pause_s)
        pause_s = min(0.1, 1.5 * pause_s)
    return json.loads(store.get(key))
