"""Sampling noise belongs to a rollout and a position, and sampling with it is sampling from the policy."""

from __future__ import annotations

import math

import pytest
import torch

from cascade.rollout.noise import gumbel_noise, rollout_key

WRAP = 2**64


def splitmix(x: int) -> int:
    """The finaliser of SplitMix64 in unsigned arithmetic, as published."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WRAP
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WRAP
    return x ^ (x >> 31)


def reference_noise(key: int, position: int, entry: int) -> float:
    golden = 0x9E3779B97F4A7C15
    bits = splitmix((splitmix((key + position * golden) % WRAP) + (entry + 1) * golden) % WRAP)
    return -math.log(-math.log(((bits >> 40) + 0.5) / 2**24))


def keys(count: int) -> torch.Tensor:
    return torch.tensor([rollout_key(0, f"addition/{index}", 0) for index in range(count)])


def test_rollout_keys_never_change() -> None:
    assert rollout_key(0, "addition/17+25", 3) == -8528161017729575570
    assert rollout_key(123, "gsm8k/ünïcode", 0) == -5737041011611244439


def test_rollout_keys_differ_by_seed_row_and_sample() -> None:
    made = {rollout_key(seed, f"row{row}", sample) for seed in range(10) for row in range(100) for sample in range(10)}
    assert len(made) == 10 * 100 * 10
    assert rollout_key(1, "1", 11) != rollout_key(11, "1", 1)
    assert all(-(2**63) <= key < 2**63 for key in made)
    assert min(made) < 0 < max(made)


@pytest.mark.parametrize("position", [0, 1, 5000])
def test_noise_is_splitmix64_of_key_position_and_entry(position: int) -> None:
    some = [0, -1, 2**63 - 1, -(2**63), rollout_key(0, "addition/1", 0)]
    got = gumbel_noise(torch.tensor(some), position, 9)
    expected = torch.tensor([[reference_noise(key, position, entry) for entry in range(9)] for key in some])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_noise_is_the_same_in_any_batch_and_for_any_vocabulary() -> None:
    some = keys(13)
    whole = gumbel_noise(some, 4, 101)
    assert torch.equal(gumbel_noise(some.flip(0), 4, 101).flip(0), whole)
    assert torch.equal(gumbel_noise(some, 4, 57), whole[:, :57])
    for index in range(len(some)):
        assert torch.equal(gumbel_noise(some[index : index + 1], 4, 101)[0], whole[index])


def test_rows_may_be_at_positions_of_their_own() -> None:
    some, positions = keys(13), torch.arange(13) * 411
    together = gumbel_noise(some, positions, 57)
    for index in range(len(some)):
        alone = gumbel_noise(some[index : index + 1], int(positions[index]), 57)
        assert torch.equal(together[index], alone[0])


def test_noise_is_standard_gumbel() -> None:
    noise = gumbel_noise(keys(1000), 0, 1000).double()
    assert bool(noise.isfinite().all())
    # Mean: Euler's constant; variance: pi^2 / 6. Six standard errors of a million draws.
    assert float(noise.mean()) == pytest.approx(0.5772157, abs=6 * math.sqrt(math.pi**2 / 6 / 1e6))
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.02)
    for x in (-1.0, 0.0, 1.0, 3.0):
        assert float((noise <= x).double().mean()) == pytest.approx(math.exp(-math.exp(-x)), abs=0.003)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("along", ["keys", "positions"])
def test_sampled_frequencies_match_softmax(temperature: float, along: str) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, 0.0, -0.5, -1.0, 1.5, 0.2, -0.2])
    draws = 20_000
    if along == "keys":
        sampled = (logits / temperature + gumbel_noise(keys(draws), 7, 10)).argmax(1)
    else:
        noise = torch.cat([gumbel_noise(keys(20), position, 10) for position in range(draws // 20)])
        sampled = (logits / temperature + noise).argmax(1)
    seen = torch.bincount(sampled, minlength=10).double()
    expected = draws * torch.softmax(logits.double() / temperature, 0)
    chi_square = float(((seen - expected).square() / expected).sum())
    assert chi_square < 33.7  # 9 degrees of freedom: one in ten thousand; deterministic, so it cannot flake


def test_noise_of_other_keys_positions_and_entries_is_uncorrelated() -> None:
    count = 50_000
    base = keys(2)
    first = gumbel_noise(base[:1], 0, count + 1)[0]
    others = {
        "another key": gumbel_noise(base[1:], 0, count + 1)[0],
        "the next key": gumbel_noise(base[:1] + 1, 0, count + 1)[0],
        "the next position": gumbel_noise(base[:1], 1, count + 1)[0],
        "the next entry": first.roll(1),
    }
    for name, other in others.items():
        correlation = float(torch.corrcoef(torch.stack([first[1:], other[1:]]))[0, 1])
        assert abs(correlation) < 5 / math.sqrt(count), name
