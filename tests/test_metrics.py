"""The numbers of a step, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cascade.metrics import of_drops, of_groups, of_tokens, reduced
from cascade.types import Group, Prompt, Rollout, Row, Score, VersionSpan


def group(domain: str, *answers: tuple[float, int, bool]) -> Group:
    """Answers are (reward, tokens, finished)."""
    prompt = Prompt(Row(f"{domain}/1", domain, "any", {}), (1,))
    rollouts = [
        Rollout(
            prompt,
            i,
            (5,) * tokens,
            (0.0,) * tokens,
            (VersionSpan(0, tokens),),
            "stop" if done else "length",
            score=Score(reward),
        )
        for i, (reward, tokens, done) in enumerate(answers)
    ]
    return Group(prompt, tuple(rollouts))


def test_rewards_and_lengths_are_means_over_rollouts_and_stds_means_over_groups() -> None:
    groups = [group("math", (1.0, 2, True), (0.0, 4, True)), group("code", (0.5, 6, False), (0.5, 8, True))]
    assert of_groups(groups) == pytest.approx(
        {
            "reward": 0.5,
            "reward_std": 0.25,  # population: 0.5 and 0
            "frac_reward_zero_std": 0.5,
            "masked_share": 0.0,
            "completions/mean_length": 5.0,
            "completions/max_length": 8.0,
            "completions/clipped_ratio": 0.25,
            "reward/math": 0.5,
            "reward/code": 0.5,
        }
    )


def test_domains_are_averaged_over_their_own_rollouts() -> None:
    groups = [
        group("math", (1.0, 1, True), (0.0, 1, True)),
        group("math", (1.0, 1, True)),
        group("code", (0.2, 1, True)),
    ]
    measured = of_groups(groups)
    assert measured["reward/math"] == pytest.approx(2 / 3)
    assert measured["reward/code"] == pytest.approx(0.2)


def test_a_step_of_which_nothing_was_left_has_no_rewards_instead_of_a_crash() -> None:
    assert of_groups([]) == {}


def test_drops_are_named_by_reason() -> None:
    assert of_drops({"zero_signal": 8, "failure": 2}) == {"dropped/failure": 2.0, "dropped/zero_signal": 8.0}


def test_sums_are_divided_by_the_tokens_of_the_whole_step_and_the_loss_is_not() -> None:
    totals = {"loss": 0.75, "tokens": 4.0, "entropy": 6.0, "reverse_kl": 2.0, "gated": 1.0, "sampler_gap": 0.4}
    totals |= {"advantage": -2.0, "advantage_square": 5.0}
    assert of_tokens(totals) == pytest.approx(
        {
            "loss": 0.75,
            "tokens": 4.0,
            "entropy": 1.5,
            "teacher/reverse_kl": 0.5,
            "sampler/gated_ratio": 0.25,
            "sampler/mean_abs_log_prob_gap": 0.1,
            "teacher/advantage_mean": -0.5,
            "teacher/advantage_std": 1.0,  # 5/4 - 1/4
        }
    )


def test_a_constant_advantage_has_a_std_of_zero_whatever_rounding_says() -> None:
    value = 0.1
    totals = {"loss": 0.0, "tokens": 3.0, "advantage": 3 * value, "advantage_square": 3 * value**2 - 1e-12}
    assert of_tokens(totals)["teacher/advantage_std"] == 0.0


def test_a_step_without_tokens_divides_by_nothing() -> None:
    measured = of_tokens({"loss": 0.0, "tokens": 0.0, "entropy": 0.0})
    assert measured == {"loss": 0.0, "entropy": 0.0, "tokens": 0.0}


def test_one_process_reduces_to_its_own_sums_in_double() -> None:
    got = reduced({"loss": torch.tensor(0.1), "tokens": torch.tensor(2.0**25 + 4)})
    assert got["tokens"] == 2.0**25 + 4
    assert math.isclose(got["loss"], float(torch.tensor(0.1)), rel_tol=1e-12)
