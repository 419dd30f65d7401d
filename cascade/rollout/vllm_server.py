"""The production rollout engine: vLLM servers, started and supervised here or given by URL."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from cascade import parallel
from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import CascadeError, EngineError
from cascade.models.published import blank_model, published_weights, same_architecture
from cascade.ports import Policy
from cascade.rollout.checkpoint_folder import folder_stop_ids, longest_sequence
from cascade.rollout.fresh import SamplingEngine
from cascade.rollout.samples import Sample
from cascade.rollout.served import Requests
from cascade.rollout.served_routing import ServedRouting
from cascade.serving.arguments import require_recording
from cascade.serving.client import TopLogProbs
from cascade.serving.copies import Weights
from cascade.serving.replicas import Replicas
from cascade.types import Rollout, TrainingSequence


class VllmServerEngine(SamplingEngine):
    """Implements `ports.RolloutEngine`.

    Every rank sends its own requests; rank 0 starts, supervises and updates the servers, and tells the others.
    """

    def __init__(self, policy: PolicyConfig, rollout: RolloutConfig, tokenizer: Any, folder: Path) -> None:
        """Starts nothing. Logs and restart copies will be in `folder`.

        Raises `EngineError` where servers of this machine cannot record what `rollout.record_routing` asks for.
        """
        require_recording(rollout)
        self.config = rollout
        self.tokenizer = tokenizer
        self._policy = policy
        self._folder = folder
        self._replicas: Replicas | None = None
        self._requests: Requests | None = None
        self._names: Any = None  # a model without weights
        self.max_tokens = 0  # of prompt and completion

    @property
    def version(self) -> int:
        """See `ports.RolloutEngine`."""
        return self.replicas.weights.version

    @property
    def counters(self) -> Mapping[str, int]:
        """How often a replica was restarted, and how often a request failed at one and went elsewhere."""
        return self._replicas.counters if self._replicas else {"restarts": 0, "failovers": 0}

    @property
    def replicas(self) -> Replicas:
        """The servers. Raises `EngineError` before `load`."""
        if self._replicas is None:
            raise EngineError("The rollout engine has no weights.", "Call `load` first.")
        return self._replicas

    def load(self, folder: Path) -> None:
        """See `ports.RolloutEngine`. Raises `EngineError` when a server does not start, answer or take the weights."""
        self.max_tokens = longest_sequence(folder, self.config.max_model_len)
        if not any(folder.glob("*.safetensors")):
            raise EngineError(f"{folder} holds no safetensors files.", "Export the checkpoint again.")
        if self._replicas is None:
            self._replicas = self._start(folder)
        else:
            replicas = self._replicas
            weights = Weights(replicas.weights.load + 1, 0, folder, owner=replicas.weights.owner)
            fits = same_architecture(self._names.config, AutoConfig.from_pretrained(folder))
            parallel.on_first(lambda: replicas.load(weights, self.max_tokens, fits=fits))
            replicas.weights = weights
        self._names = blank_model(folder)
        routing = ServedRouting(self._names) if self.config.record_routing else None
        self._requests = Requests(self._replicas.pool, folder_stop_ids(folder, self.tokenizer), routing)

    @torch.no_grad()
    def publish(self, policy: Policy, version: int) -> Mapping[str, float]:
        """See `ports.RolloutEngine`; `publish/replicas` counts those that took the weights over.

        A replica that fails on the way is restarted from the weights before. Raises `EngineError` on every rank when
        none is left, with the first failure.
        """
        began = time.monotonic()
        replicas = self.replicas
        weights = dataclasses.replace(replicas.weights, version=version)
        stream = policy.weights()
        outcome: tuple[Weights, dict[str, float]] | CascadeError | OSError
        try:
            outcome = replicas.publish(published_weights(self._names, stream), weights)
        except (CascadeError, OSError) as error:
            outcome = error
        for _ in stream:
            pass  # gathering is collective: every rank goes through all of it, also after a failure
        outcome = parallel.broadcast(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        replicas.weights, metrics = outcome
        counted = {f"replicas/{name}": float(count) for name, count in self.counters.items()}
        return {"publish/seconds": time.monotonic() - began, **metrics, **counted}

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        """See `ports.RolloutEngine`. Raises `EngineError` for a rollout that could outgrow the servers' limit."""
        replicas, requests = self.replicas, self._sender()
        asked = [Sample(rollout, limit) for rollout, limit in zip(rollouts, max_tokens, strict=True)]
        unfinished = [sample for sample in asked if sample.rollout.finish_reason == "abort"]
        for sample in unfinished:
            prompt = sample.rollout.prompt
            self._check_length(len(prompt.token_ids) + sample.limit, f"A rollout of {prompt.row.id}")
            if sample.length >= sample.limit:
                sample.finish_reason = "length"
        growing = [sample for sample in unfinished if sample.finish_reason == "abort"]
        replicas.background.run(requests.extend(growing, temperature, seed))
        grown = {id(sample): sample.settled(self.tokenizer) for sample in unfinished}
        return [grown.get(id(sample), sample.rollout) for sample in asked]

    def score(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """See `ports.RolloutEngine`. At a temperature other than 1 rollouts in progress wait meanwhile."""
        found = self._scored(sequences, temperature, 0)
        return [
            [
                entry[token] if wanted else 0.0
                for token, wanted, entry in zip(sequence.token_ids, sequence.loss_mask, entries, strict=True)
            ]
            for sequence, entries in zip(sequences, found, strict=True)
        ]

    def top_k(
        self, sequences: Sequence[TrainingSequence], temperature: float, k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `ports.ScoringEngine`."""
        found = self._scored(sequences, temperature, k)
        return [_likeliest([entry for entry in entries if entry], k) for entries in found]

    def _scored(self, sequences: Sequence[TrainingSequence], temperature: float, top_k: int) -> list[list[TopLogProbs]]:
        replicas, requests = self.replicas, self._sender()
        if temperature != 1.0 and parallel.world_size() > 1:
            raise EngineError(
                f"vLLM servers score at temperature {temperature} for one training process at a time, and there are "
                f"{parallel.world_size()}.",
                "Score at temperature 1.",
            )
        for sequence in sequences:
            self._check_length(len(sequence.token_ids), "A sequence to score")
        return replicas.background.run(requests.score(sequences, temperature, top_k))

    def pause(self) -> None:
        """See `ports.RolloutEngine`. All replicas pause, for all ranks."""
        replicas = self.replicas
        replicas.background.run(replicas.pool.set_paused(True))

    def resume(self) -> None:
        """See `ports.RolloutEngine`."""
        replicas = self.replicas
        replicas.background.run(replicas.pool.set_paused(False))

    def abort(self) -> None:
        """See `ports.RolloutEngine`. Ends the calls of this rank; returns when nothing of theirs is sampled."""
        self.replicas.background.run(self._sender().abort(self.config.request_timeout_s))

    def close(self) -> None:
        """See `ports.RolloutEngine`. Ends the servers that were started here."""
        if self._replicas is not None:
            replicas, self._replicas, self._requests = self._replicas, None, None
            replicas.close()

    def _start(self, folder: Path) -> Replicas:
        owner = parallel.broadcast(uuid.uuid4().hex[:8])
        replicas = Replicas(self._policy, self.config, self._folder, Weights(1, 0, folder, owner=owner))
        try:
            urls = parallel.on_first(lambda: replicas.start(self.max_tokens))
            parallel.everywhere(lambda: None if parallel.rank() == 0 else replicas.follow(urls))
        except BaseException:
            replicas.close()
            raise
        return replicas

    def _sender(self) -> Requests:
        if self._requests is None:
            raise EngineError("The rollout engine has no weights.", "Call `load` first.")
        return self._requests

    def _check_length(self, tokens: int, what: str) -> None:
        if tokens > self.max_tokens:
            raise EngineError(
                f"{what} may become {tokens} tokens long, and the servers take {self.max_tokens}.",
                "Raise `rollout.max_model_len`, or ask for shorter completions.",
            )


def _likeliest(entries: Sequence[TopLogProbs], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 and log-probs float32 of the k likeliest tokens of every entry, [entries, k] each, likeliest first."""
    ranked = [sorted(entry.items(), key=lambda pair: -pair[1])[:k] for entry in entries]
    ids = torch.tensor([[token for token, _ in row] for row in ranked], dtype=torch.int64)
    return ids.view(-1, k), torch.tensor([[value for _, value in row] for row in ranked]).view(-1, k)
