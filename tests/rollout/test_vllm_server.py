"""Served rollouts are what the model samples, whichever replica samples them and however the weights came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascade.errors import EngineError
from cascade.rollout.vllm_server import VllmServerEngine
from cascade.serving.copies import READY
from cascade.types import Rollout
from tests.processes import torchrun
from tests.rollout.embedded import engine as embedded
from tests.rollout.embedded import flat, prompts
from tests.rollout.served import KIND, Weights, gap, long_prompts, names, policy_of, sampled_gap, served_config
from tests.tiny_models import TOKENIZER, policy_config, sequences

Moe = Callable[[int], Path]
Beside = Callable[..., VllmServerEngine]
EXACT = 1e-5
LONG = 240  # tokens: some seconds of sampling


def test_greedy_rollouts_are_the_embedded_engines(served: VllmServerEngine, moe: Moe) -> None:
    limits = [1 + 3 * i for i in range(9)]
    ours, theirs = (e.generate(prompts(), 2, 0.0, limits, 5) for e in (served, embedded(moe(0), KIND)))
    assert [(r.token_ids, r.finish_reason, r.text) for r in flat(ours)] == [
        (r.token_ids, r.finish_reason, r.text) for r in flat(theirs)
    ]
    assert {r.policy_version for r in flat(ours)} == {0}


@pytest.mark.parametrize("temperature", (1.0, 0.7))
def test_sampled_log_probs_are_those_at_the_temperature(served: VllmServerEngine, moe: Moe, temperature: float) -> None:
    rollouts = flat(served.generate(prompts(), 4, temperature, [30] * 9, 5))
    assert names(rollouts) == [(f"row{i}", j) for i in range(9) for j in range(4)]
    assert sampled_gap(rollouts, Weights(moe(0)), temperature) < EXACT
    assert len({r.token_ids for r in rollouts[:4]}) > 1
    assert all((r.finish_reason == "stop") == (r.token_ids[-1] == 1) for r in rollouts)
    again = flat(served.generate(prompts(), 4, temperature, [30] * 9, 5))
    assert [r.token_ids for r in again] == [r.token_ids for r in rollouts]
    others = flat(served.generate(prompts(), 4, temperature, [30] * 9, 6))
    assert [r.token_ids for r in others] != [r.token_ids for r in rollouts]


def test_a_large_group_is_several_requests_and_one_set_of_seeds(served: VllmServerEngine) -> None:
    one = prompts(1)
    large = served.generate(one, 80, 1.0, [4], 5)[0]
    assert [r.index for r in large] == list(range(80))
    assert [r.token_ids for r in large[:3]] == [r.token_ids for r in served.generate(one, 3, 1.0, [4], 5)[0]]


@pytest.mark.parametrize("transport", ("shm", "disk", "gloo"))
def test_published_weights_are_the_policys(beside: Beside, moe: Moe, tmp_path: Path, transport: str) -> None:
    engine = beside(transport=transport, bucket_mib=1)
    engine.load(moe(0))
    assert gap(engine.score(sequences(6), 1.0), sequences(6), Weights(moe(0)), 1.0) < EXACT
    for version, seed in ((3, 1), (4, 2), (7, 3)):
        measured = engine.publish(policy_of(moe(seed)), version)
        assert measured["publish/replicas"] == 2.0
        assert measured["publish/mib"] > 0.1
        assert measured["publish/seconds"] > 0
        assert engine.version == version
        for _ in range(2):  # different replicas
            assert gap(engine.score(sequences(6), 1.0), sequences(6), Weights(moe(seed)), 1.0) < EXACT
        rollouts = flat(engine.generate(prompts(), 2, 1.0, [8] * 9, 5))
        assert {r.policy_version for r in rollouts} == {version}
        assert sampled_gap(rollouts, Weights(moe(seed)), 1.0) < EXACT
    copies = tmp_path / "beside" / "weights"
    assert sorted(folder.name for folder in copies.iterdir()) == ["v1.000004", "v1.000007"]
    assert all((folder / READY).exists() for folder in copies.iterdir())


def test_scores_at_another_temperature_do_not_touch_rollouts_in_progress(served: VllmServerEngine, moe: Moe) -> None:
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, long_prompts(8), 2, 1.0, [LONG] * 8, 5)
        _wait_for_requests(served)
        found = served.score(sequences(6), 0.7)
        assert not sampling.done()
        rollouts = flat(sampling.result())
    assert gap(found, sequences(6), Weights(moe(0)), 0.7) < EXACT
    assert sampled_gap(rollouts, Weights(moe(0)), 1.0) < EXACT
    assert all(r.finish_reason != "abort" for r in rollouts)


def test_rollouts_in_progress_go_on_over_a_publish(served: VllmServerEngine, moe: Moe) -> None:
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, long_prompts(8), 2, 1.0, [LONG] * 8, 5)
        _wait_for_requests(served)
        served.publish(policy_of(moe(1)), 1)
        rollouts = flat(sampling.result())
    both = [r for r in rollouts if len(r.versions) == 2]
    assert both
    old, new = Weights(moe(0)), Weights(moe(1))
    for rollout in both:
        assert [span.version for span in rollout.versions] == [0, 1]
        first = rollout.versions[0].tokens
        assert first + rollout.versions[1].tokens == len(rollout.token_ids)
        context = rollout.prompt.token_ids + rollout.token_ids
        before = len(rollout.prompt.token_ids)
        true = old.log_probs(context)[before : before + first] + new.log_probs(context)[before + first :]
        assert rollout.sampler_log_probs == pytest.approx(true, abs=EXACT)


def test_aborted_rollouts_keep_what_they_have_and_go_on_later(served: VllmServerEngine, moe: Moe) -> None:
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, long_prompts(8), 2, 1.0, [LONG] * 8, 5)
        _wait_for_requests(served)
        served.abort()
        partial = flat(sampling.result(timeout=5))
    cut = [r for r in partial if r.finish_reason == "abort"]
    assert cut
    assert any(r.token_ids for r in cut)
    whole = served.extend(partial, 1.0, [LONG] * 16, 5)
    assert names(whole) == names(partial)
    for before, after in zip(partial, whole, strict=True):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
        assert after.finish_reason == ("stop" if after.token_ids[-1] == 1 else "length")
    assert sampled_gap(whole, Weights(moe(0)), 1.0) < EXACT
    assert served.extend(whole, 1.0, [LONG] * 16, 5) == whole


def test_nothing_is_sampled_while_paused(served: VllmServerEngine) -> None:
    served.pause()
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, prompts(2), 1, 1.0, [4, 4], 5)
        _wait_for_requests(served)
        with pytest.raises(TimeoutError):
            sampling.result(timeout=1.0)
        served.resume()
        assert len(flat(sampling.result(timeout=20))) == 2


def test_an_abort_ends_rollouts_that_are_paused(served: VllmServerEngine) -> None:
    served.pause()
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, prompts(2), 2, 1.0, [4, 4], 5)
        _wait_for_requests(served)
        served.abort()
        assert [r.finish_reason for r in flat(sampling.result(timeout=5))] == ["abort"] * 4
    served.resume()


def test_loading_takes_over_another_checkpoint_as_version_0(served: VllmServerEngine, moe: Moe) -> None:
    served.publish(policy_of(moe(1)), 5)
    served.load(moe(2))
    assert served.version == 0
    assert gap(served.score(sequences(6), 1.0), sequences(6), Weights(moe(2)), 1.0) < EXACT
    assert {r.policy_version for r in flat(served.generate(prompts(), 1, 1.0, [4] * 9, 5))} == {0}


def test_a_rollout_that_could_outgrow_the_servers_is_refused(served: VllmServerEngine) -> None:
    longest = flat(served.generate(long_prompts(1), 1, 1.0, [253], 5))
    assert len(longest[0].token_ids) <= 253
    with pytest.raises(EngineError, match=r"long0 may become 257 tokens long, and the servers take 256"):
        served.generate(long_prompts(1), 1, 1.0, [254], 5)


def test_many_threads_may_ask_at_once(served: VllmServerEngine) -> None:
    found: list[list[Rollout]] = []

    def ask(seed: int) -> None:
        found.append(flat(served.generate(prompts(3), 2, 1.0, [4] * 3, seed)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(one) for one in found] == [6] * 4


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, moe: Moe) -> None:
    config = served_config(urls=["http://127.0.0.1:9"])
    engine = VllmServerEngine(policy_config(KIND), config, TOKENIZER, tmp_path)
    with pytest.raises(EngineError, match=r"server at http://127.0.0.1:9 does not answer"):
        engine.load(moe(0))
    engine.close()


def _wait_for_requests(engine: VllmServerEngine) -> None:
    """Until requests are at the replicas, and some tokens long."""
    deadline = time.monotonic() + 10
    while not engine.replicas.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)


@pytest.mark.slow
def test_two_training_processes_share_the_servers(tmp_path: Path, moe: Moe) -> None:
    torchrun(2, "tests/rollout/served_two_ranks.py", str(moe(0)), str(tmp_path))
    assert (tmp_path / "rank0").exists()
    assert (tmp_path / "rank1").exists()
