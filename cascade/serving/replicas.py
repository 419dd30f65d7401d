"""All replicas of one engine, for threads that wait: started or followed, handed weights, closed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from cascade import parallel
from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import CascadeError, EngineError
from cascade.serving.background import Background
from cascade.serving.buckets import buckets
from cascade.serving.copies import CopyWriter, Weights
from cascade.serving.member import known_members, started_members
from cascade.serving.pool import Pool
from cascade.serving.publishing import Publication, reload_members
from cascade.serving.supervision import Supervisor
from cascade.serving.transports import FileTransport, GlooTransport, Transport

MIB = 2**20


class Replicas:
    """One thread speaks to all servers. Rank 0 `start`s, `load`s and `publish`es; the other ranks `follow`."""

    def __init__(self, policy: PolicyConfig, rollout: RolloutConfig, folder: Path, weights: Weights) -> None:
        self.policy = policy
        self.rollout = rollout
        self.folder = folder
        self.pool = Pool(rollout.start_timeout_s)
        self.pool.weights = weights
        self.background = Background("vllm-servers")
        self._supervisor: Supervisor | None = None
        self._transport = transport_of(rollout)
        self._publishes = 0

    @property
    def weights(self) -> Weights:
        """What the replicas should have."""
        return self.pool.current

    @weights.setter
    def weights(self, weights: Weights) -> None:
        self.pool.weights = weights

    @property
    def counters(self) -> Mapping[str, int]:
        """See `Pool.counters`."""
        return self.pool.counters

    @property
    def urls(self) -> list[str]:
        """Where the servers are."""
        return [member.client.url for member in self.pool.members]

    @property
    def live(self) -> int:
        """How many take requests."""
        return sum(member.lane.live for member in self.pool.members)

    @property
    def busy(self) -> int:
        """This rank's requests that are at a server."""
        return sum(member.lane.requests for member in self.pool.members)

    def start(self, max_tokens: int) -> list[str]:
        """Starts the servers, or asks those given by URL; returns the URLs of all."""
        if self.rollout.urls:
            members = known_members(self.rollout.urls, self.rollout)
        else:
            members = started_members(self.rollout, self.folder)
        self.pool.set_members(members)
        self._supervisor = Supervisor(self.pool, self.policy, self.rollout, leads=True)
        self._supervisor.max_tokens = max_tokens
        self.background.run(self._supervisor.begin())
        return self.urls

    def follow(self, urls: list[str]) -> None:
        """Uses servers that another rank looks after."""
        self.pool.set_members(known_members(urls, self.rollout))
        self._supervisor = Supervisor(self.pool, self.policy, self.rollout, leads=False)
        self.background.run(self._supervisor.begin())

    def load(self, weights: Weights, max_tokens: int, *, fits: bool) -> None:
        """Hands the folder of `weights` to all servers; where it does not fit what they run, they start anew with it.

        Raises `EngineError` for servers that somebody else started and whose model it does not fit.
        """
        supervisor = self._supervisor
        if supervisor is None:
            raise EngineError("There are no servers yet.", "Start them first.")
        if fits and max_tokens <= supervisor.max_tokens:
            self.background.run(reload_members(self.pool, weights, self.rollout))
        elif self.rollout.urls:
            raise EngineError(f"The servers of `rollout.urls` do not run what {weights.base} is.", "Start others.")
        else:
            supervisor.max_tokens = max_tokens
            self.background.run(supervisor.begin_anew(weights))

    def publish(self, stream: Iterator[tuple[str, torch.Tensor]], weights: Weights) -> tuple[Weights, dict[str, float]]:
        """Hands a stream of published weights to all servers as `weights`; returns them with their copy, and metrics.

        Every rank calls it; only rank 0 talks. Raises `EngineError` when no server has the weights in the end.
        """
        if parallel.rank() != 0:
            self._accompany(stream)
            return weights, {}
        self._publishes += 1
        copies = self.rollout.transport == "disk" or self._publishes % self.rollout.restart_copy_every == 0
        writer = CopyWriter(self.folder / "weights", weights.load, weights.version) if copies else None
        if writer:
            weights = dataclasses.replace(weights, copy=writer.folder)
        publication = Publication(self.pool, weights, self._transport)
        try:
            self.background.run(publication.begin())
            size = self._send(stream, publication, writer)
            if writer:
                writer.commit(weights.base)
            count = self.background.run(publication.finish())
        except BaseException as error:
            self.background.run(publication.abandon(_as_engine_error(error)))
            if writer:
                writer.discard()
            raise
        return weights, {"publish/mib": size / MIB, "publish/replicas": float(count)}

    def close(self) -> None:
        """Ends everything. Idempotent."""
        if self._supervisor is not None:
            self.background.run(self._supervisor.end())
            self._supervisor = None
        if self.background.running:
            self.background.run(self.pool.close())
        self._transport.close()
        self.background.close()
        if parallel.rank() == 0:
            shutil.rmtree(self.folder / "weights", ignore_errors=True)  # nobody is left to restart from them

    def _send(
        self,
        stream: Iterator[tuple[str, torch.Tensor]],
        publication: Publication,
        writer: CopyWriter | None,
    ) -> int:
        """Returns the bytes sent. A bucket exists twice: here and with the replica."""
        size, transport = 0, self._transport
        for bucket in buckets(stream, self.rollout.bucket_mib * MIB, keep_device=transport.keep_device):
            size += sum(tensor.nbytes for _, tensor in bucket)
            staged = transport.stage(bucket, writer.write(bucket) if writer else None)
            try:
                self.background.run(publication.send(staged))
            finally:
                transport.unstage(staged)
            del bucket, staged
        return size

    def _accompany(self, stream: Iterator[tuple[str, torch.Tensor]]) -> None:
        """What the other ranks do while rank 0 sends: gathering the weights needs all, and some transports too."""
        if not self._transport.collective:
            for _ in stream:
                pass
            return
        for bucket in buckets(stream, self.rollout.bucket_mib * MIB, keep_device=True):
            self._transport.unstage(self._transport.stage(bucket, None))


def transport_of(rollout: RolloutConfig) -> Transport:
    """The trainer's side of `rollout.transport`."""
    if rollout.transport in ("nccl", "ipc"):
        from cascade.serving.gpu_transports import gpu_transport

        return gpu_transport(rollout)
    if rollout.transport == "gloo":
        return GlooTransport(rollout.tensor_parallel, rollout.request_timeout_s)
    return FileTransport(rollout.transport)


def _as_engine_error(error: BaseException) -> EngineError:
    if isinstance(error, CascadeError):
        return EngineError(error.what, error.fix)
    return EngineError(f"Publishing ended with {error!r}.", "See that error.")
