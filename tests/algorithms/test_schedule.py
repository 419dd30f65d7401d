"""The learning rate at named steps."""

from __future__ import annotations

import math

import pytest

from cascade.algorithms.schedule import learning_rate

PEAK, STEPS, WARMUP = 2e-6, 130, 30


def rate(step: int, shape: str = "constant", min_ratio: float = 0.0, warmup: int = WARMUP, steps: int = STEPS) -> float:
    return learning_rate(
        step,
        peak=PEAK,
        max_steps=steps,
        warmup_steps=warmup,
        warmup_start_ratio=0.1,
        shape=shape,  # type: ignore[arg-type]
        min_ratio=min_ratio,
    )


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear"])
def test_warm_up_is_a_line_from_a_tenth_of_the_peak(shape: str) -> None:
    assert rate(0, shape) == pytest.approx(0.1 * PEAK, rel=1e-12)
    assert rate(15, shape) == pytest.approx(0.55 * PEAK, rel=1e-12)
    assert rate(29, shape) == pytest.approx((0.1 + 0.9 * 29 / 30) * PEAK, rel=1e-12)
    assert rate(30, shape) == pytest.approx(PEAK, rel=1e-12)


def test_constant_stays_at_the_peak() -> None:
    assert [rate(step) for step in (30, 31, 129)] == [PEAK] * 3


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("min_ratio", [0.0, 0.1])
def test_falling_schedules_end_at_the_minimum_on_the_last_step(shape: str, min_ratio: float) -> None:
    assert rate(STEPS - 1, shape, min_ratio) == pytest.approx(min_ratio * PEAK, rel=1e-9, abs=1e-20)
    assert rate(STEPS - 2, shape, min_ratio) > min_ratio * PEAK


def test_cosine_and_line_between_their_ends() -> None:
    # A third of the way, of 99 steps after the warm-up: (1 + cos(pi / 3)) / 2 = 3/4 for the cosine, 2/3 for the line.
    assert rate(30 + 33, "cosine") == pytest.approx(0.75 * PEAK, rel=1e-12)
    assert rate(30 + 33, "linear") == pytest.approx(2 / 3 * PEAK, rel=1e-12)
    assert rate(30 + 33, "cosine", 0.2) == pytest.approx((0.2 + 0.8 * (1 + math.cos(math.pi / 3)) / 2) * PEAK)


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear"])
def test_without_warm_up_the_first_step_has_the_peak(shape: str) -> None:
    assert rate(0, shape, warmup=0) == pytest.approx(PEAK, rel=1e-12)


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear"])
def test_a_stage_shorter_than_its_warm_up_never_reaches_the_peak(shape: str) -> None:
    assert max(rate(step, shape, steps=10) for step in range(10)) == pytest.approx((0.1 + 0.9 * 9 / 30) * PEAK)
    assert rate(0, shape, warmup=0, steps=1) == pytest.approx(PEAK)
