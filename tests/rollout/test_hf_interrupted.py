"""A rollout that is interrupted, by whatever, goes on as if it had not been, or with the new weights."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.errors import EngineError
from cascade.rollout.fresh import fresh_rollouts
from cascade.types import Rollout, VersionSpan
from tests.rollout.embedded import KINDS, Engine, engine, flat, prompts
from tests.tiny_models import sequences, write_model

WAIT_S = 60.0
LIMIT = 24


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with an untrained model."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: root / kind if (root / kind).exists() else write_model(root / kind, kind)


class Weights:
    """Stands for a policy: what it publishes."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()


def weights(sampler: Engine, noise: float = 0.0) -> Any:
    """The engine's own weights, moved by Gaussian noise."""
    generator = torch.Generator().manual_seed(3)
    own = dict(sampler.model.named_parameters())
    return Weights({n: t + noise * torch.randn(t.shape, generator=generator) for n, t in own.items()})


def cut(rollout: Rollout, tokens: int) -> Rollout:
    """As it was after `tokens` tokens."""
    return dataclasses.replace(
        rollout,
        token_ids=rollout.token_ids[:tokens],
        sampler_log_probs=rollout.sampler_log_probs[:tokens],
        versions=(VersionSpan(rollout.versions[0].version, tokens),) if tokens else (),
        finish_reason="abort",
        text="",
    )


def assert_same(found: list[Rollout], expected: list[Rollout]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.sampler_log_probs == pytest.approx(other.sampler_log_probs, abs=1e-5)
        assert dataclasses.replace(one, sampler_log_probs=other.sampler_log_probs) == other


class Sampling:
    """A `generate` in a thread of its own, that stands at the border behind its `tokens`-th token until `go`."""

    def __init__(self, sampler: Engine, tokens: int = 3) -> None:
        self.borders = 0
        self.there, self.go = threading.Event(), threading.Event()
        self.rollouts: list[Rollout] = []
        self.failure: EngineError | None = None
        ask = sampler.claims.interrupted

        def interrupted(aborts: int) -> bool:
            self.borders += 1
            if self.borders == tokens:
                self.there.set()
                assert self.go.wait(WAIT_S)
            return ask(aborts)

        sampler.claims.interrupted = interrupted
        self.thread = threading.Thread(target=self._run, args=(sampler,), daemon=True)
        self.thread.start()
        assert self.there.wait(WAIT_S)

    def _run(self, sampler: Engine) -> None:
        try:
            self.rollouts = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5))
        except EngineError as error:
            self.failure = error

    def result(self) -> list[Rollout]:
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.rollouts


@pytest.mark.parametrize("temperature", (1.0, 0.0))
@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_rollout_is_the_uninterrupted_one(
    model_folder: Callable[[str], Path], kind: str, temperature: float
) -> None:
    """Rows of one batch have gone on from 0, 1, 2 ... tokens, and samples of one prompt from the same number."""
    sampler = engine(model_folder(kind), kind)
    whole = flat(sampler.sample(prompts(), 3, temperature, LIMIT, 5))
    limits = [LIMIT] * len(whole)
    for keep in ([i % 7 for i in range(len(whole))], [4] * len(whole), [0] * len(whole)):
        parts = [cut(r, tokens) if tokens < len(r.token_ids) else r for r, tokens in zip(whole, keep, strict=True)]
        assert_same(sampler.extend(parts, temperature, limits, 5), whole)
    parts = random.Random(0).sample([cut(rollout, len(rollout.token_ids) - 1) for rollout in whole], len(whole))
    for rollout in sampler.extend(parts, temperature, limits, 5):  # in another order
        assert rollout in [dataclasses.replace(r, sampler_log_probs=rollout.sampler_log_probs) for r in whole]


def test_finished_rollouts_are_returned_as_they_are(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    whole = flat(sampler.sample(prompts(), 2, 1.0, LIMIT, 5))
    again = sampler.extend(whole, 1.0, [LIMIT + 5] * len(whole), 6)
    assert all(one is other for one, other in zip(again, whole, strict=True))
    full = [cut(rollout, 5) for rollout in whole if len(rollout.token_ids) > 5]
    ended = sampler.extend(full, 1.0, [5] * len(full), 5)  # no room for a sixth
    assert ended == [dataclasses.replace(rollout, finish_reason="length") for rollout in full]
    with pytest.raises(ValueError, match="zip"):
        sampler.extend(whole, 1.0, [LIMIT], 5)


def test_the_limit_counts_the_tokens_that_were_there(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    whole = flat(sampler.sample(prompts(), 2, 1.0, LIMIT, 5))
    limits = [6 + i % 4 for i in range(len(whole))]
    parts = [cut(rollout, min(i % 6, len(rollout.token_ids) - 1)) for i, rollout in enumerate(whole)]
    for found, reference, limit in zip(sampler.extend(parts, 1.0, limits, 5), whole, limits, strict=True):
        assert found.token_ids == reference.token_ids[:limit]
        assert found.finish_reason == (reference.finish_reason if len(reference.token_ids) <= limit else "length")


@pytest.mark.parametrize("kind", ("qwen3_moe", "llama"))
def test_a_publish_in_mid_rollout_changes_the_rest_of_it(model_folder: Callable[[str], Path], kind: str) -> None:
    sampler = engine(model_folder(kind), kind)
    old = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5))
    moved = weights(sampler, 0.05)
    sampling = Sampling(sampler, 3)
    published: list[Mapping[str, float]] = []
    publisher = threading.Thread(target=lambda: published.append(sampler.publish(moved, 1)), daemon=True)
    publisher.start()
    with sampler.claims._changed:
        assert sampler.claims._changed.wait_for(lambda: sampler.claims._queue, WAIT_S)
    sampling.go.set()
    found = sampling.result()
    publisher.join(WAIT_S)
    assert published[0]["publish/mib"] > 0
    assert sampler.version == 1
    longer = [(new, before) for new, before in zip(found, old, strict=True) if len(before.token_ids) > 3]
    assert len(longer) > 20
    for new, before in longer:
        assert new.versions == (VersionSpan(0, 3), VersionSpan(1, len(new.token_ids) - 3))
        assert new.policy_version == 0
        assert new.token_ids[:3] == before.token_ids[:3]
    assert [new.token_ids for new, _ in longer] != [before.token_ids for _, before in longer]
    expected = sampler.extend([cut(new, 3) for new, _ in longer], 1.0, [LIMIT] * len(longer), 5)
    assert_same([new for new, _ in longer], expected)


def test_many_publishes_during_one_rollout_neither_starve_nor_change_it(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    whole, same = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5)), weights(sampler)
    sampling = Sampling(sampler, 2)
    sampling.go.set()
    version = 0
    while sampling.thread.is_alive():
        version += 1
        assert sampler.publish(same, version)["publish/seconds"] < WAIT_S
    found = sampling.result()
    assert version > 5
    for one, other in zip(found, whole, strict=True):
        assert (one.token_ids, one.finish_reason, one.text) == (other.token_ids, other.finish_reason, other.text)
        assert one.sampler_log_probs == pytest.approx(other.sampler_log_probs, abs=1e-5)
        versions = [span.version for span in one.versions]
        assert versions == sorted(set(versions))
        assert sum(span.tokens for span in one.versions) == len(one.token_ids)
        assert min(span.tokens for span in one.versions) > 0
    assert max(len(rollout.versions) for rollout in found) > 3


def test_nothing_is_sampled_while_paused_and_nothing_is_lost(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    whole, same = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5)), weights(sampler)
    for _ in range(2):
        sampling = Sampling(sampler)
        sampling.go.set()
        sampler.pause()
        tokens = sampling.borders
        assert sampler.score(sequences(3), 1.0)  # scoring and publishing go on
        sampler.publish(same, 0)
        assert sampling.borders == tokens
        assert sampling.thread.is_alive()
        sampler.resume()
        assert_same(sampling.result(), whole)


@pytest.mark.parametrize("paused", (False, True))
def test_aborted_calls_return_what_they_have(model_folder: Callable[[str], Path], paused: bool) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe", batch_sequences=20)
    whole = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5))
    sampling = Sampling(sampler, 4)
    if paused:
        sampling.go.set()
        sampler.pause()
    sampler.abort()
    sampling.go.set()
    found = sampling.result()
    assert len(found) == len(whole)
    assert {len(rollout.token_ids) for rollout in found if rollout.finish_reason == "abort"} >= {0}  # 2nd batch
    for part, rollout in zip(found, whole, strict=True):
        assert part.token_ids == rollout.token_ids[: len(part.token_ids)]
        assert (part.finish_reason == "abort") == (len(part.token_ids) < len(rollout.token_ids))
    sampler.resume()
    assert_same(sampler.extend(found, 1.0, [LIMIT] * len(found), 5), whole)
    assert_same(flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5)), whole)  # later calls are not aborted


def test_scores_in_mid_rollout_are_those_of_an_idle_engine(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    whole, documents = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5)), sequences(5)
    expected = sampler.score(documents, 0.7)
    sampling = Sampling(sampler)
    sampling.go.set()
    while sampling.thread.is_alive():
        assert sampler.score(documents, 0.7) == expected
    assert_same(sampling.result(), whole)


def test_closing_ends_what_is_in_progress(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    sampling = Sampling(sampler)
    sampling.go.set()
    sampler.close()
    assert any(rollout.finish_reason == "abort" for rollout in sampling.result())
    with pytest.raises(EngineError, match="no weights"):
        sampler.extend(fresh_rollouts(prompts(), 1), 1.0, [3] * 9, 5)


def test_loading_in_mid_rollout_goes_on_with_the_checkpoint(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    whole = flat(sampler.sample(prompts(), 3, 1.0, LIMIT, 5))
    sampler.publish(weights(sampler), 7)
    sampling = Sampling(sampler)
    sampling.go.set()
    sampler.load(model_folder("llama"))
    found = sampling.result()
    assert [rollout.token_ids for rollout in found] == [rollout.token_ids for rollout in whole]
    assert {tuple(span.version for span in rollout.versions) for rollout in found} == {(7,), (7, 0)}


def test_a_publish_that_fails_fails_the_rollouts_in_progress(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    broken: Any = Weights({})
    sampling = Sampling(sampler)
    sampling.go.set()
    with pytest.raises(EngineError, match="did not publish"):
        sampler.publish(broken, 1)
    assert sampling.result() == []
    assert "last load or publish failed" in str(sampling.failure)
