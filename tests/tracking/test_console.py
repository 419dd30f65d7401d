"""The console: one line a step, samples now and then, nothing a log file could not hold."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from cascade.tracking.console import ConsoleTracker
from cascade.types import Rollout


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_step_is_one_line_with_the_time_left(console: Console) -> None:
    clock = Clock()
    tracker = ConsoleTracker(console=console, clock=clock)
    tracker.begin("if_rl", "rl", 40, 10)
    metrics = {"reward": 0.534, "completions/mean_length": 11.24, "grad_norm": 0.411, "loss": 0.1}
    for step, seconds in ((11, 0.8), (12, 300.0), (13, 0.8)):  # an evaluation in between
        clock.now += seconds
        tracker.step("if_rl", step, metrics)
    lines = printed(console).splitlines()
    assert lines[0] == "if_rl  rl, 40 steps, resumed after step 10"
    assert lines[3] == "if_rl  13/40  reward 0.53  length 11.2  grad 0.41  0.80 s/step  left 0:22"
    assert len(lines) == 4


def test_without_a_reward_the_loss_is_shown_and_a_stage_not_begun_has_no_pace(console: Console) -> None:
    ConsoleTracker(console=console).step("sft", 3, {"loss": 2.345, "grad_norm": 1.2e-5})
    assert printed(console) == "sft  3  loss 2.35  grad 1.2e-05\n"


def test_the_best_and_the_worst_of_the_widest_group_are_shown(console: Console, group: list[Rollout]) -> None:
    tracker = ConsoleTracker(rollouts_every=5, console=console)
    tracker.rollouts("if_rl", 4, group)
    assert printed(console) == ""
    tracker.rollouts("if_rl", 5, group)
    text = printed(console)
    assert "if_rl step 5, b" in text
    assert text.index("the best") < text.index("the worst")
    assert "17+25" in text


def test_what_a_model_says_cannot_steer_the_terminal_or_the_markup(
    console: Console, make_rollout: Callable[..., Rollout], hostile: str
) -> None:
    tracker = ConsoleTracker(rollouts_every=1, console=console)
    tracker.rollouts("if_rl", 1, [make_rollout("a", 0, 1.0, "[bold]x[/nope]" + hostile)])
    text = printed(console)
    assert "[bold]x[/nope]" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_rollouts_without_any_reward_say_why(console: Console, make_rollout: Callable[..., Rollout]) -> None:
    lost = make_rollout("a", 0, None, "x", "infrastructure: judge is away")
    ConsoleTracker(rollouts_every=1, console=console).rollouts("if_rl", 1, [lost])
    assert "no rollout has a reward (1 failed, e.g. infrastructure: judge is away)" in printed(console)
