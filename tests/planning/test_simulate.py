"""The simulated loop agrees with arithmetic where there is any, and moves the right way where there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cascade.errors import ConfigError, DataError
from cascade.planning.response_lengths import LogNormalLengths, ReplayedLengths, lengths_of_run
from cascade.planning.simulate import Loop, simulate
from cascade.planning.simulated_replicas import ReplicaSpeed
from cascade.tracking.files import ROLLOUT_SCHEMA


def decode_s(running: int) -> float:
    return 0.01 + 0.0001 * running


SPEED = ReplicaSpeed(tuple(map(decode_s, range(65))), prefill_s=0.0)
LOOP = Loop(
    prompts=16, rollouts=4, max_staleness=0, replicas=2, speed=SPEED, train_s=5.0, train_token_s=0.0, publish_s=1.0
)
EQUAL = ReplayedLengths(((100, 100, 100, 100),))


def test_equal_lengths_take_turns_as_arithmetic_says() -> None:
    done = simulate(LOOP, EQUAL, steps=6)
    generation = 100 * decode_s(32)  # 64 rollouts on two replicas
    assert done.step_s == pytest.approx(1.0 + generation + 5.0)
    assert done.trainer_busy == pytest.approx(5.0 / done.step_s)
    assert done.tokens_per_s == pytest.approx(6400 / done.step_s)
    assert done.staleness == 0


def test_one_batch_ahead_hides_the_shorter_of_sampling_and_training() -> None:
    done = simulate(replace(LOOP, max_staleness=1), EQUAL, steps=8)
    assert done.step_s == pytest.approx(1.0 + max(5.0, 100 * decode_s(32)))
    assert done.staleness == pytest.approx(1.0)


def test_requests_that_do_not_fit_wait_and_take_the_places_of_those_that_end() -> None:
    one = replace(LOOP, replicas=1, speed=replace(SPEED, decode_s=SPEED.decode_s[:17]))
    assert simulate(one, EQUAL, steps=4).step_s == pytest.approx(1.0 + 4 * 100 * decode_s(16) + 5.0)


def test_a_sequence_speeds_up_when_others_end() -> None:
    loop = replace(LOOP, prompts=1, rollouts=2, replicas=1, publish_s=0.0, train_s=1.0)
    both, alone = 10 * decode_s(2), 90 * decode_s(1)
    assert simulate(loop, ReplayedLengths(((10, 100),)), steps=3).step_s == pytest.approx(both + alone + 1.0)


def test_a_prompt_holds_up_what_its_replica_decodes() -> None:
    loop = replace(LOOP, speed=replace(SPEED, prefill_s=0.5))
    assert simulate(loop, EQUAL, steps=4).step_s == pytest.approx(1.0 + 32 * 0.5 + 100 * decode_s(32) + 5.0)


def test_few_verifiers_are_a_queue_behind_the_rollouts() -> None:
    done = simulate(replace(LOOP, verify_s=0.25, verifiers=4), EQUAL, steps=4)
    assert done.step_s == pytest.approx(1.0 + 100 * decode_s(32) + 64 * 0.25 / 4 + 5.0)


def test_long_tails_cost_and_staleness_wins_some_of_it_back() -> None:
    tail = LogNormalLengths(mean=100, sigma=1.0, limit=2000)
    narrow = LogNormalLengths(mean=100, sigma=0.1, limit=2000)
    step_s = {
        (lengths.sigma, ahead): simulate(replace(LOOP, max_staleness=ahead), lengths, steps=40, seed=3).step_s
        for lengths in (tail, narrow)
        for ahead in (0, 1, 3)
    }
    assert step_s[1.0, 0] > 1.3 * step_s[0.1, 0]
    assert step_s[1.0, 3] < step_s[1.0, 1] < step_s[1.0, 0]


def test_no_token_is_older_than_the_staleness_allows() -> None:
    lengths = LogNormalLengths(mean=200, sigma=0.8, limit=3000)
    for ahead in (0, 1, 2, 4):
        assert simulate(replace(LOOP, max_staleness=ahead), lengths, steps=30).staleness <= ahead


def test_failing_replicas_lose_what_they_ran_and_nothing_else() -> None:
    loop = replace(LOOP, replicas=8, failure_every_s=60.0, restart_s=20.0)
    lengths = LogNormalLengths(mean=400, sigma=0.5, limit=3000)
    whole, failing = (simulate(one, lengths, steps=30) for one in (replace(loop, failure_every_s=0.0), loop))
    assert whole.failures == 0
    assert failing.failures > 20
    assert failing.step_s > whole.step_s
    assert len(failing.steps_s) == 30


def test_the_same_seed_gives_the_same_run_and_another_one_does_not() -> None:
    lengths = LogNormalLengths(mean=100, sigma=0.7, limit=2000)
    first, again, other = (simulate(LOOP, lengths, steps=10, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_thousands_of_gpus_are_simulated_in_seconds() -> None:
    loop = replace(LOOP, prompts=512, rollouts=16, replicas=512, max_staleness=2)
    assert simulate(loop, LogNormalLengths(8000, 0.9, 49152), steps=4).tokens_per_s > 0


def test_log_normal_lengths_have_the_mean_that_was_asked_for_and_prompts_differ() -> None:
    lengths, rng = LogNormalLengths(mean=500, sigma=0.8, limit=100_000, between=0.7), np.random.default_rng(0)
    groups = np.log([lengths.draw(16, rng) for _ in range(4000)])
    assert np.exp(groups).mean() == pytest.approx(500, rel=0.05)
    assert groups.mean(1).var() / groups.var() == pytest.approx(0.7, abs=0.05)


def test_lengths_are_cut_at_the_limit() -> None:
    drawn = LogNormalLengths(mean=500, sigma=1.0, limit=300).draw(1000, np.random.default_rng(0))
    assert max(drawn) == 300
    assert Counter(drawn)[300] > 100


def test_a_runs_rollouts_are_replayed_group_by_group(tmp_path: Path) -> None:
    rows = [
        {"row_id": row, "sample": sample, "token_ids": [1] * tokens, "part": part, "sampled": flags}
        for row, sample, part, tokens, flags in (
            ("a", 0, 0, 3, None),
            ("a", 1, 0, 5, [1, 0, 1, 1, 0]),  # the environment wrote two of its tokens
            ("b", 0, 0, 7, None),
            ("b", 1, 0, 2, None),
            ("b", 1, 1, 4, None),  # the second part of the same episode
        )
    ]
    blank = dict.fromkeys(ROLLOUT_SCHEMA.names)
    parquet.write_table(
        pa.Table.from_pylist([{**blank, **row} for row in rows], ROLLOUT_SCHEMA), tmp_path / "step_000001.parquet"
    )
    assert lengths_of_run(tmp_path) == ReplayedLengths(((3, 3), (7, 6)))


def test_wrong_input_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rollouts"):
        lengths_of_run(tmp_path)
    with pytest.raises(DataError, match="no distribution"):
        LogNormalLengths(mean=0, sigma=1, limit=5)
    with pytest.raises(ConfigError, match="at least one"):
        replace(LOOP, replicas=0)
    with pytest.raises(ConfigError, match="restart"):
        replace(LOOP, failure_every_s=10.0, restart_s=20.0)
