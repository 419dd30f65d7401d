"""The embedded rollout engine: `transformers` generate on an inference copy inside the training process."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from cascade import parallel
from cascade.config import PolicyConfig, RolloutConfig
from cascade.data.scoring import score_sequences
from cascade.errors import EngineError
from cascade.models.loading import load_model
from cascade.models.logprobs import LogProbModel
from cascade.models.replay import RoutingRecorder
from cascade.models.stop_tokens import stop_ids
from cascade.ports import Policy
from cascade.rollout.claims import Claims
from cascade.rollout.copying import take_over
from cascade.rollout.decoding import Draw, decode
from cascade.rollout.fresh import SamplingEngine, context, grown
from cascade.rollout.noise import rollout_key
from cascade.types import Rollout, TrainingSequence, VersionSpan

MIB = 2**20


class HfRolloutEngine(SamplingEngine):
    """Implements `ports.RolloutEngine`.

    A thread that samples is stopped after a token when another one publishes, scores or loads; then it goes on from
    the tokens it has, whose keys and values it computes anew. Before `load` and after `close` everything but these
    two raises `EngineError`.
    """

    def __init__(self, policy: PolicyConfig, rollout: RolloutConfig, tokenizer: Any) -> None:
        """Holds no weights yet."""
        self.config = policy
        self.batch_sequences = rollout.batch_sequences
        self.tokenizer = tokenizer
        self.model: Any = None
        self.record_routing = rollout.record_routing
        self.recorder: RoutingRecorder | None = None
        self.stop_ids: list[int] = []
        self.claims = Claims()
        self._version = 0
        self._started = False
        self._whole = False  # not while nor after weights are copied in part

    @property
    def version(self) -> int:
        """See `ports.RolloutEngine`."""
        self._require_started()
        return self._version

    def load(self, folder: Path) -> None:
        """See `ports.RolloutEngine`. The model it has is freed first; rollouts in progress go on with the new one."""
        with self.claims.alone("load"):
            self._free()
            model = load_model(folder, self.config).to(parallel.device()).eval()
            self.stop_ids = stop_ids(model, self.tokenizer)
            model.generation_config = GenerationConfig()  # else the folder's repetition penalty would act, unseen
            self.recorder = RoutingRecorder(model) if self.record_routing else None
            self.model, self._version, self._started, self._whole = model, 0, True, True

    @torch.no_grad()
    def publish(self, policy: Policy, version: int) -> Mapping[str, float]:
        """See `ports.RolloutEngine`; `publish/seconds` includes the wait for the token being sampled.

        Raises `EngineError` where `take_over` does. The weights are then a mixture of two versions, and nothing
        samples or scores with them before a publish or load that succeeds.
        """
        started = time.monotonic()
        with self.claims.alone("publish"):
            if self.model is None:
                self._require_whole()
            self._whole = False
            moved = take_over(self.model, policy)
            self._version, self._whole = version, True
        return {"publish/seconds": time.monotonic() - started, "publish/mib": moved / MIB}

    def extend(
        self, rollouts: Sequence[Rollout], temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[Rollout]:
        """See `ports.RolloutEngine`."""
        self._require_started()
        aborts = self.claims.aborts
        left = [limit - len(rollout.token_ids) for rollout, limit in zip(rollouts, max_tokens, strict=True)]
        done = [_ended(rollout, more) for rollout, more in zip(rollouts, left, strict=True)]
        waiting = [i for i, rollout in enumerate(done) if rollout.finish_reason == "abort"]
        # Alike in limit and length: short answers do not wait for long ones, and there is little left padding.
        alike = sorted(waiting, key=lambda i: (left[i], len(context(rollouts[i]))))
        for start in range(0, len(alike), self.batch_sequences):
            chosen = alike[start : start + self.batch_sequences]
            limits = [max_tokens[i] for i in chosen]
            batch = self._extend_batch([rollouts[i] for i in chosen], temperature, limits, seed, aborts)
            for i, rollout in zip(chosen, batch, strict=True):
                done[i] = rollout
        return done

    def score(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """See `ports.RolloutEngine`."""
        with self.claims.alone("score"):
            self._require_whole()
            model = LogProbModel(self.model, self.config.log_prob_chunk)
            return score_sequences(
                lambda batch: model(batch.input_ids, batch.position_ids, batch.loss_mask, temperature)[0],
                sequences,
                self.config,
                self.stop_ids[0],
            )

    def pause(self) -> None:
        """See `ports.RolloutEngine`. Returns when the token being sampled is."""
        self._require_started()
        self.claims.pause()

    def resume(self) -> None:
        """See `ports.RolloutEngine`."""
        self._require_started()
        self.claims.resume()

    def abort(self) -> None:
        """See `ports.RolloutEngine`."""
        self._require_started()
        self.claims.abort()

    def close(self) -> None:
        """See `ports.RolloutEngine`. Ends what is in progress."""
        self.claims.abort()
        with self.claims.alone("close"):
            self._free()
            self._started = False
        self.claims.resume()

    def _extend_batch(
        self, rollouts: Sequence[Rollout], temperature: float, limits: Sequence[int], seed: int, aborts: int
    ) -> list[Rollout]:
        """The rollouts finished, over as many passes as they are interrupted; or as they are after an `abort`."""
        batch = list(rollouts)
        while unfinished := [i for i, rollout in enumerate(batch) if rollout.finish_reason == "abort"]:
            with self.claims.sampling(aborts) as granted:
                if not granted:
                    break
                self._require_whole()
                draws = [self._draw(batch[i], limits[i], seed) for i in unfinished]
                interrupted = functools.partial(self.claims.interrupted, aborts)
                drawn = decode(self.model, draws, temperature, self.stop_ids, interrupted, self._fresh_recorder())
                version = self._version
            for i, new in zip(unfinished, drawn, strict=True):
                span = VersionSpan(version, len(new.token_ids))
                said = (new.token_ids, new.log_probs, [span], new.finish_reason)
                batch[i] = grown(batch[i], *said, self.tokenizer, new.routed_experts)
        return batch

    def _draw(self, rollout: Rollout, limit: int, seed: int) -> Draw:
        key = rollout_key(seed, rollout.prompt.row.id, rollout.index)
        position = len(rollout.token_ids)
        return Draw(context(rollout), key, position, limit - position)

    def _fresh_recorder(self) -> RoutingRecorder | None:
        """Without what scoring has chosen."""
        if self.recorder:
            self.recorder.forget()
        return self.recorder

    def _free(self) -> None:
        self.model, self.recorder, self._whole = None, None, False

    def _require_started(self) -> None:
        if not self._started:
            raise EngineError("The rollout engine has no weights.", "Call `load` first.")

    def _require_whole(self) -> None:
        self._require_started()
        if not self._whole:
            raise EngineError(
                "The rollout engine's weights are incomplete: the last load or publish failed.",
                "See that error; load a checkpoint or publish again.",
            )


def _ended(rollout: Rollout, left: int) -> Rollout:
    """An unfinished rollout that may not grow is finished: its limit is its length."""
    unfinished = rollout.finish_reason == "abort"
    return dataclasses.replace(rollout, finish_reason="length") if unfinished and left <= 0 else rollout
