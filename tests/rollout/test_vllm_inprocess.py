"""The in-process vLLM engine samples, scores and publishes exactly what the policy would, on real vLLM."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.rollout.vllm_inprocess import VllmInProcessEngine
from cascade.types import Rollout, TrainingSequence
from tests.conftest import REPOSITORY
from tests.tiny_models import TOKENIZER, policy_config, sequences
from tests.vllm_engine import (
    LENGTH,
    LocalPolicy,
    changed_model,
    largest_error,
    log_probs,
    needs_vllm,
    new_engine,
    prompts,
    sequence,
    tiny_folder,
    vllm_engine,
)

pytestmark = needs_vllm
KIND = "qwen3_moe"
END = 1
EXACT = 1e-5  # nats; fp32 rounding is a tenth of it


@pytest.fixture
def engine() -> Any:
    """With the weights of `tiny_folder(KIND)`."""
    return vllm_engine(KIND)


def plain_model(kind: str = KIND) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()


def sample(engine: Any, samples: int, temperature: float, tokens: int, seed: int, count: int = 6) -> list[Rollout]:
    asked = prompts(count)
    return [
        rollout for group in engine.generate(asked, samples, temperature, [tokens] * count, seed) for rollout in group
    ]


def tokens(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.token_ids for rollout in rollouts]


def test_greedy_is_the_hf_engines_token_for_token(engine: Any) -> None:
    from cascade.rollout.hf import HfRolloutEngine

    embedded = HfRolloutEngine(policy_config(KIND), RolloutConfig(), TOKENIZER)
    embedded.load(tiny_folder(KIND))
    here, there = (sample(each, 1, 0.0, 24, 0) for each in (engine, embedded))
    assert tokens(here) == tokens(there)
    assert [r.finish_reason for r in here] == [r.finish_reason for r in there]
    assert [r.text for r in here] == [r.text for r in there]
    for one, other in zip(here, there, strict=True):
        assert one.sampler_log_probs == pytest.approx(other.sampler_log_probs, abs=EXACT)
    embedded.close()


def test_the_samplers_log_probs_are_the_trainers_at_the_same_temperature(engine: Any) -> None:
    model, apart = plain_model(), 0.0
    for rollout in sample(engine, 3, 0.7, 12, 5):
        document = sequence(rollout).token_ids
        start = len(rollout.prompt.token_ids)
        assert rollout.sampler_log_probs == pytest.approx(log_probs(model, document, 0.7)[start:], abs=EXACT)
        at_one = log_probs(model, document, 1.0)[start:]
        apart = max(apart, *(abs(a - b) for a, b in zip(rollout.sampler_log_probs, at_one, strict=True)))
    assert apart > 1e-2


def test_what_a_rollout_draws_depends_on_its_name_only(engine: Any) -> None:
    whole = sample(engine, 4, 1.0, 12, 5)
    assert tokens(sample(engine, 4, 1.0, 12, 5)) == tokens(whole)
    assert tokens(sample(engine, 4, 1.0, 12, 6)) != tokens(whole)
    fresh = {"token_ids": (), "sampler_log_probs": (), "versions": (), "finish_reason": "abort"}
    begun_anew = [dataclasses.replace(rollout, **fresh) for rollout in whole[5:9]]
    alone = [engine.extend([rollout], 1.0, [12], 5)[0] for rollout in begun_anew]
    assert tokens(alone) == tokens(whole[5:9])
    groups = [{rollout.token_ids for rollout in whole if rollout.prompt.row.id == f"row{i}"} for i in range(6)]
    assert all(len(group) > 1 for group in groups)
    assert [rollout.index for rollout in whole] == [0, 1, 2, 3] * 6


def test_a_rollout_ends_with_one_stop_token_or_at_its_own_limit(engine: Any) -> None:
    asked = prompts(9)
    limits = [2 + i for i in range(9)]
    groups = engine.generate(asked, 16, 1.0, limits, 3)
    reasons = set()
    for group, limit in zip(groups, limits, strict=True):
        for rollout in group:
            reasons.add(rollout.finish_reason)
            stopped = rollout.token_ids[-1] == END
            assert rollout.finish_reason == ("stop" if stopped else "length")
            assert len(rollout.token_ids) == limit or stopped
            assert END not in rollout.token_ids[:-1]
            assert len(rollout.sampler_log_probs) == len(rollout.token_ids)
            assert [span.tokens for span in rollout.versions] == [len(rollout.token_ids)]
    assert reasons == {"stop", "length"}


def test_a_request_that_could_outgrow_the_model_is_refused_before_sampling(engine: Any) -> None:
    asked = prompts(2)
    with pytest.raises(EngineError, match=rf"row1 may have {LENGTH + 1} tokens, and the rollout engine takes {LENGTH}"):
        engine.generate(asked, 1, 1.0, [2, LENGTH + 1 - len(asked[1].token_ids)], 0)
    (group,) = engine.generate(asked[1:], 8, 1.0, [LENGTH - len(asked[1].token_ids)], 0)
    full = [rollout for rollout in group if rollout.finish_reason == "length"]
    assert full
    model = plain_model()
    assert largest_error(engine, model, [sequence(rollout) for rollout in full]) < 2 * EXACT  # a full one is scored
    with pytest.raises(EngineError, match="A sequence to score"):
        engine.score([TrainingSequence((3,) * (LENGTH + 1), (1,) * (LENGTH + 1))], 1.0)


@pytest.mark.parametrize("temperature", (1.0, 0.7))
def test_scores_are_the_trainers(engine: Any, temperature: float) -> None:
    model, documents = plain_model(), sequences(6)
    unmasked = TrainingSequence((3, 4, 5), (0, 0, 0))
    assert largest_error(engine, model, documents, temperature) < EXACT
    assert engine.score([unmasked], temperature) == [[0.0, 0.0, 0.0]]
    if temperature != 1.0:
        assert largest_error(engine, model, documents) < EXACT  # the scale was put back
        at_one = engine.score(documents, 1.0)
        scaled = engine.score(documents, temperature)
        assert max(abs(a - b) for x, y in zip(at_one, scaled, strict=True) for a, b in zip(x, y, strict=True)) > 1e-2


@pytest.mark.parametrize("kind", ("llama", KIND))
def test_published_weights_are_taken_over_exactly_again_and_again(kind: str) -> None:
    engine, documents = vllm_engine(kind), sequences(6)
    for version in (1, 2):
        model = changed_model(kind, version)
        assert largest_error(engine, model, documents) > 0.1
        metrics = engine.publish(LocalPolicy(model), version)
        assert engine.version == version
        assert metrics["publish/seconds"] > 0
        assert metrics["publish/mib"] >= sum(p.nbytes for p in model.parameters()) / 2**20
        assert largest_error(engine, model, documents) < EXACT
    engine.load(tiny_folder(kind))
    assert engine.version == 0
    assert largest_error(engine, plain_model(kind), documents) < EXACT


def test_a_publish_that_fails_stops_the_engine_until_load(engine: Any) -> None:
    class Forgetful(LocalPolicy):
        def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
            return (pair for pair in super().weights() if pair[0] != "model.layers.1.self_attn.k_proj.weight")

    with pytest.raises(EngineError, match=r"not published, e\.g\. model\.layers\.1\.self_attn\.k_proj\.weight"):
        engine.publish(Forgetful(changed_model(KIND, 1)), 3)
    for use in (
        lambda: sample(engine, 1, 1.0, 4, 0),
        lambda: engine.score(sequences(1), 1.0),
        lambda: engine.publish(LocalPolicy(changed_model(KIND, 1)), 4),
    ):
        with pytest.raises(EngineError, match=r"did not get all weights of version 3.*Call `load`"):
            use()
    engine.load(tiny_folder(KIND))
    assert largest_error(engine, plain_model(), sequences(4)) < EXACT


class Pacer:
    """Lets another thread act in the middle of sampling: after so many steps of vLLM, before the next."""

    def __init__(self, engine: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.left = steps
        step = engine._vllm.step

        def counted() -> Any:
            outputs = step()
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                assert self.wanted.wait(60)
            return outputs

        self.wanted = threading.Event()
        monkeypatch.setattr(engine._vllm, "step", counted)


def in_thread(action: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    return thread, found


def test_a_publish_in_mid_rollout_splits_it_in_two_versions(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = plain_model(), changed_model(KIND, 7)
    pacer = Pacer(engine, 8, monkeypatch)
    thread, found = in_thread(lambda: sample(engine, 3, 0.7, 20, 5))
    assert pacer.reached.wait(60)
    publishing, _ = in_thread(lambda: engine.publish(LocalPolicy(new), 1))
    while not engine.claims._queue:  # the publish is waiting for the step to end
        assert publishing.is_alive()
    pacer.wanted.set()
    for waiting in (publishing, thread):
        waiting.join(60)
        assert not waiting.is_alive()
    split = [rollout for rollout in found[0] if len(rollout.versions) == 2]
    assert len(split) > 5
    for rollout in found[0]:
        assert [span.version for span in rollout.versions] in ([0], [0, 1])
        assert sum(span.tokens for span in rollout.versions) == len(rollout.token_ids)
    for rollout in split:
        start, before = len(rollout.prompt.token_ids), rollout.versions[0].tokens
        assert before == 8
        by_old, by_new = (log_probs(model, sequence(rollout).token_ids, 0.7)[start:] for model in (old, new))
        assert rollout.sampler_log_probs[:before] == pytest.approx(by_old[:before], abs=EXACT)
        assert rollout.sampler_log_probs[before:] == pytest.approx(by_new[before:], abs=EXACT)
        assert max(abs(a - b) for a, b in zip(by_old[before:], by_new[before:], strict=True)) > 0.05


def test_scoring_in_mid_rollout_disturbs_neither(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, documents = plain_model(), sequences(3)
    pacer = Pacer(engine, 5, monkeypatch)
    thread, found = in_thread(lambda: sample(engine, 2, 1.0, 15, 5))
    assert pacer.reached.wait(60)
    scoring, errors = in_thread(lambda: largest_error(engine, model, documents, 0.7))
    while not engine.claims._queue:
        assert scoring.is_alive()
    pacer.wanted.set()
    scoring.join(60)
    thread.join(60)
    assert errors[0] < EXACT
    for rollout in found[0]:
        expected = log_probs(model, sequence(rollout).token_ids)[len(rollout.prompt.token_ids) :]
        assert rollout.sampler_log_probs == pytest.approx(expected, abs=EXACT)


def test_abort_returns_what_there_is_and_extend_goes_on(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model()
    with monkeypatch.context() as patched:
        pacer = Pacer(engine, 6, patched)
        thread, found = in_thread(lambda: sample(engine, 3, 0.7, 15, 5))
        assert pacer.reached.wait(60)
        engine.abort()
        pacer.wanted.set()
        thread.join(60)
    halves = found[0]
    unfinished = [rollout for rollout in halves if rollout.finish_reason == "abort"]
    assert unfinished
    assert {len(rollout.token_ids) for rollout in unfinished} == {6}
    whole = engine.extend(halves, 0.7, [15] * len(halves), 5)
    assert tokens(whole) == tokens(engine.extend(halves, 0.7, [15] * len(halves), 5))
    for half, rollout in zip(halves, whole, strict=True):
        if half.finish_reason != "abort":
            assert rollout == half
            continue
        assert rollout.token_ids[:6] == half.token_ids
        assert rollout.finish_reason == ("stop" if rollout.token_ids[-1] == END else "length")
        expected = log_probs(model, sequence(rollout).token_ids, 0.7)[len(rollout.prompt.token_ids) :]
        assert rollout.sampler_log_probs == pytest.approx(expected, abs=EXACT)
    full = engine.extend(unfinished, 0.7, [6] * len(unfinished), 5)
    assert tokens(full) == tokens(unfinished)
    assert {rollout.finish_reason for rollout in full} == {"length"}


def test_a_paused_engine_samples_nothing_and_can_be_aborted(engine: Any) -> None:
    engine.pause()
    thread, found = in_thread(lambda: sample(engine, 1, 1.0, 4, 5))
    assert largest_error(engine, plain_model(), sequences(2)) < EXACT  # scoring goes on
    engine.abort()
    thread.join(60)
    assert set(tokens(found[0])) <= {()}
    assert {rollout.finish_reason for rollout in found[0]} == {"abort"}
    thread, found = in_thread(lambda: sample(engine, 1, 1.0, 4, 5))
    engine.resume()
    thread.join(60)
    assert tokens(found[0]) == tokens(sample(engine, 1, 1.0, 4, 5))


def test_a_model_that_vllm_cannot_run_here_is_an_error_and_another_one_starts_afterwards() -> None:
    with pytest.raises(EngineError, match=r"vLLM cannot run .* here: .*supported only for CUDA"):
        vllm_engine("nemotron_h")
    assert largest_error(vllm_engine(KIND), plain_model(), sequences(2)) < EXACT


def test_before_load_and_after_close_nothing_is_sampled() -> None:
    engine = new_engine(KIND)
    with pytest.raises(EngineError, match="no weights yet"):
        sample(engine, 1, 1.0, 4, 0)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.score(sequences(1), 1.0)


def test_several_training_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.parallel.world_size", lambda: 2)
    with pytest.raises(EngineError, match="rollout=vllm_server"):
        VllmInProcessEngine(policy_config(KIND), RolloutConfig(), TOKENIZER)


@pytest.mark.parametrize("first", (pytest.param("policy", marks=pytest.mark.slow), "engine"))
def test_it_lives_in_one_process_with_deepspeed(tmp_path: Path, first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.beside_deepspeed", first, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "exact, twice"


def test_more_prompt_tokens_than_a_step_holds_are_sampled_with_their_seeds(engine: Any) -> None:
    long = [
        dataclasses.replace(
            prompt,
            row=dataclasses.replace(prompt.row, id=f"long{i}"),
            token_ids=tuple(2 + (i + j) % 35 for j in range(80)),
        )
        for i, prompt in enumerate(prompts(1) * 150)
    ]
    first, again = (engine.generate(long, 1, 1.0, [4] * len(long), 3) for _ in range(2))
    assert [group[0].token_ids for group in first] == [group[0].token_ids for group in again]
    model = plain_model()
    for (rollout,) in first[::30]:
        expected_values = log_probs(model, rollout.prompt.token_ids + rollout.token_ids)[80:]
        assert rollout.sampler_log_probs == pytest.approx(expected_values, abs=EXACT)
