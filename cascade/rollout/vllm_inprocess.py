"""The vLLM engine inside the training process: no server, vLLM's own kernels and scheduler."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from cascade import parallel
from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError
from cascade.models.published import blank_model, folder_weights, published_weights, same_architecture
from cascade.ports import Policy
from cascade.rollout.checkpoint_folder import folder_stop_ids
from cascade.rollout.claims import Claims
from cascade.rollout.fresh import SamplingEngine
from cascade.rollout.samples import Sample, as_requests
from cascade.rollout.served_routing import ServedRouting
from cascade.rollout.vllm_embedded import EmbeddedVllm
from cascade.serving.arguments import require_recording, require_vllm
from cascade.serving.buckets import buckets
from cascade.types import Rollout, TrainingSequence

MIB = 2**20


class VllmInProcessEngine(SamplingEngine):
    """Implements `ports.RolloutEngine`.

    One thread at a time uses vLLM: for a step, a publish, a score. The latter two take the rollouts in progress out of
    it; the thread that samples submits them again with the tokens they have, so their keys and values are computed
    with the new weights.
    """

    def __init__(self, policy: PolicyConfig, rollout: RolloutConfig, tokenizer: Any) -> None:
        """Starts nothing.

        Raises `EngineError` without vLLM, with several training processes, and where it cannot record the experts.
        """
        if parallel.world_size() > 1:
            raise EngineError(
                f"rollout=vllm_inprocess serves one training process, and there are {parallel.world_size()}.",
                "Use rollout=vllm_server.",
            )
        require_vllm()
        require_recording(rollout)
        self.policy, self.config, self.tokenizer = policy, rollout, tokenizer
        self.version = 0
        self.claims = Claims()
        self._vllm: EmbeddedVllm | None = None
        self._routing: ServedRouting | None = None
        self._unusable = "The rollout engine has no weights yet."
        self._loads = 0
        self._requests = itertools.count()
        self._running: dict[tuple[str, int], Sample] = {}  # by request and index in it

    def load(self, folder: Path) -> None:
        """See `ports.RolloutEngine`. Raises `EngineError` for a model that vLLM cannot run here."""
        with self.claims.alone("load"):
            config = AutoConfig.from_pretrained(folder)
            self.stop_ids = folder_stop_ids(folder, self.tokenizer)
            self._loads += 1
            if self._vllm is not None and not self._unusable and same_architecture(self._names.config, config):
                self._replace(folder_weights(self._names, folder), 0)
                return
            self._stop("The rollout engine could not be started.")
            self._names = blank_model(folder)
            self._routing = ServedRouting(self._names) if self.config.record_routing else None
            self._vllm = EmbeddedVllm(folder, self.policy, self.config)
            self.version, self._unusable = 0, ""

    def publish(self, policy: Policy, version: int) -> Mapping[str, float]:
        """See `ports.RolloutEngine`; `publish/seconds` includes the wait for the token being sampled.

        Raises `EngineError` when the policy's weights are not the model's, each once. Then nothing samples or scores
        before `load`.
        """
        started = time.monotonic()
        with self.claims.alone("publish"):
            self._check_usable()
            size = self._replace(published_weights(self._names, policy.weights()), version)
        return {"publish/seconds": time.monotonic() - started, "publish/mib": size / MIB}

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        """See `ports.RolloutEngine`. Raises `EngineError` for a rollout that could outgrow the model's length."""
        aborts = self.claims.aborts
        asked = [Sample(rollout, limit) for rollout, limit in zip(rollouts, max_tokens, strict=True)]
        unfinished = [sample for sample in asked if sample.rollout.finish_reason == "abort"]
        for sample in unfinished:
            self._check_length(len(sample.rollout.prompt.token_ids) + sample.limit, sample.rollout.prompt.row.id)
            sample.finish_reason = "abort" if sample.length < sample.limit else "length"
        self._sample(unfinished, temperature, seed, aborts)
        new = {id(sample): sample.settled(self.tokenizer) for sample in unfinished}
        return [new.get(id(sample), sample.rollout) for sample in asked]

    def score(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """See `ports.RolloutEngine`."""
        for sequence in sequences:
            self._check_length(len(sequence.token_ids), "A sequence to score")
        with self.claims.alone("score"):
            vllm = self._check_usable()
            self._interrupt()
            for number, sequence in enumerate(sequences):
                if sequence.loss_tokens:
                    vllm.add(f"score {number}", sequence.token_ids, max_tokens=1, temperature=0.0, prompt_logprobs=0)
            vllm.set_logit_scale(1.0 / temperature)
            found = {output.request_id: output.prompt_logprobs for output in self._all_steps()}
            vllm.set_logit_scale(1.0)
        return [
            [
                found[f"score {number}"][at][token].logprob if wanted else 0.0
                for at, (token, wanted) in enumerate(zip(sequence.token_ids, sequence.loss_mask, strict=True))
            ]
            for number, sequence in enumerate(sequences)
        ]

    def pause(self) -> None:
        """See `ports.RolloutEngine`. Returns when the step in progress has ended."""
        self.claims.pause()

    def resume(self) -> None:
        """See `ports.RolloutEngine`."""
        self.claims.resume()

    def abort(self) -> None:
        """See `ports.RolloutEngine`."""
        self.claims.abort()

    def close(self) -> None:
        """See `ports.RolloutEngine`. Ends what is in progress."""
        self.claims.abort()
        with self.claims.alone("close"):
            self._stop("The rollout engine is closed.")

    def _stop(self, reason: str) -> None:
        self._unusable = reason
        if self._vllm is not None:
            self._interrupt()
            self._vllm.stop()
            self._vllm = None

    def _check_usable(self) -> EmbeddedVllm:
        if self._vllm is None or self._unusable:
            raise EngineError(self._unusable, "Call `load` with a folder of good weights.")
        return self._vllm

    @contextmanager
    def _whole(self, reason: str) -> Iterator[None]:
        """Whatever ends this early leaves the engine unusable."""
        try:
            yield
        except BaseException:
            self._unusable = reason
            raise

    def _check_length(self, tokens: int, what: str) -> None:
        longest = self._check_usable().longest
        if tokens > longest:
            raise EngineError(
                f"{what} may have {tokens} tokens, and the rollout engine takes {longest}.",
                "Raise `rollout.max_model_len`, or ask for shorter completions.",
            )

    @torch.no_grad()
    def _replace(self, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> int:
        """All weights, in buckets; returns their bytes."""
        vllm = self._check_usable()
        self._interrupt()
        with self._whole(f"The rollout engine did not get all weights of version {version}, and has a mixture."):
            size = vllm.replace(buckets(weights, self.config.bucket_mib * MIB), f"{self._loads}.{version}")
        self.version = version
        return size

    def _sample(self, samples: list[Sample], temperature: float, seed: int, aborts: int) -> None:
        """Steps until all samples have ended, or until `abort` was called more than `aborts` times."""
        while samples := [sample for sample in samples if sample.finish_reason == "abort"]:
            with self.claims.sampling(aborts) as mine:
                if not mine:
                    break
                self._submit([sample for sample in samples if not sample.running], temperature, seed)
                self._step()
        if any(sample.running for sample in samples):
            with self.claims.alone("abort"):
                self._interrupt()

    def _submit(self, samples: list[Sample], temperature: float, seed: int) -> None:
        vllm = self._check_usable()
        for alike in as_requests(samples):
            first, name = alike[0], str(next(self._requests))
            vllm.add(
                name,
                first.context(),
                n=len(alike),
                temperature=temperature,
                max_tokens=first.limit - first.length,
                seed=first.seed(seed),
                logprobs=0,
                stop_token_ids=self.stop_ids,
            )
            for index, sample in enumerate(alike):
                self._running[name, index] = sample
                sample.running = True

    def _step(self) -> None:
        """One token more for the samples in vLLM."""
        for output in self._stepped():
            for completion in output.outputs:
                sample = self._running[output.request_id, completion.index]
                for token, found in zip(completion.token_ids, completion.logprobs, strict=True):
                    sample.add(token, found[token].logprob, self.version)
                if completion.finish_reason is not None:
                    if self._routing:
                        sample.record(self._routing.record(completion.routed_experts, len(sample.context())))
                    sample.end(completion.finish_reason)
                    del self._running[output.request_id, completion.index]

    def _stepped(self) -> list[Any]:
        vllm = self._check_usable()
        with self._whole("A step of vLLM failed."):
            return vllm.step()

    def _all_steps(self) -> Iterator[Any]:
        while self._check_usable().unfinished():
            yield from self._stepped()

    def _interrupt(self) -> None:
        """Takes the samples in progress out of vLLM; who waits for them submits them again."""
        if self._vllm is not None:
            self._vllm.abort({name for name, _ in self._running})
        for sample in self._running.values():
            sample.running = False
        self._running.clear()
