"""One quiet line a step, and now and then a table of what the policy says."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cascade.tracking.samples import Decode, Sample, best_and_worst, sample_of
from cascade.types import Rollout

SHOWN = (
    ("reward", "reward"),
    ("loss", "loss"),
    ("accuracy", "accuracy"),
    ("completions/mean_length", "length"),
    ("grad_norm", "grad"),
)
"""Metric -> its word on the line; the loss stands for the reward where there is none."""

MEDIAN_STEPS = 20
PROMPT_CHARACTERS = 300
COMPLETION_CHARACTERS = 600


@dataclass(slots=True)
class _Pace:
    """Where a stage is and how fast it goes."""

    total_steps: int
    last: float  # seconds on the clock
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_STEPS))


class ConsoleTracker:
    """Prints `if_rl  12/40  reward 0.53  length 11.2  grad 0.41  0.8 s/step  left 0:22` for every step.

    A table with the best and the worst rollout of the group of widest spread follows every `rollouts_every` steps, 0
    for never. The pace is the median of the last 20 steps: an evaluation or a checkpoint between steps hardly moves it.
    """

    def __init__(
        self,
        rollouts_every: int = 10,
        console: Console | None = None,
        decode: Decode | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rollouts_every = rollouts_every
        self._console = console or Console(highlight=False)
        self._decode = decode
        self._clock = clock
        self._paces: dict[str, _Pace] = {}

    def begin(self, stage: str, kind: str, total_steps: int, done_steps: int = 0) -> None:
        """Announce a stage; `done_steps` > 0 when it resumes."""
        self._paces[stage] = _Pace(total_steps, self._clock())
        resumed = f", resumed after step {done_steps}" if done_steps else ""
        self._print(f"{stage}  {kind}, {total_steps} steps{resumed}")

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Print the line of a step; `step` counts from 1."""
        words = [stage, str(step)]
        shown = [name for name, _ in SHOWN if not (name == "loss" and "reward" in metrics)]
        words += [f"{label} {_number(metrics[name])}" for name, label in SHOWN if name in shown and name in metrics]
        pace = self._paces.get(stage)
        if pace is not None:
            words[1] = f"{step:>{len(str(pace.total_steps))}}/{pace.total_steps}"
            now = self._clock()
            pace.durations.append(now - pace.last)
            pace.last = now
            typical = median(pace.durations)
            left = max(pace.total_steps - step, 0) * typical
            words += [f"{_number(typical)} s/step", f"left {_duration(left)}"]
        self._print("  ".join(words))

    def rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Print the table of a step that is due for one."""
        if self._rollouts_every <= 0 or step % self._rollouts_every or not rollouts:
            return
        pairs = best_and_worst(sample_of(rollout, self._decode) for rollout in rollouts)
        if not pairs:
            reasons = {rollout.failure for rollout in rollouts}
            self._print(
                f"{stage}  step {step}: no rollout has a reward ({len(rollouts)} failed, e.g. {min(map(str, reasons))})"
            )
            return
        best, worst = pairs[0]
        self._console.print(_table(f"{stage} step {step}, {best.row_id}", best, worst))

    def close(self) -> None: ...

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _table(title: str, best: Sample, worst: Sample) -> Table:
    table = Table(title=Text(title), title_justify="left", caption=None, show_lines=True)
    for name in ("", "reward", "prompt", "completion"):
        table.add_column(name, overflow="fold")
    rows = [("only", best)] if best is worst else [("best", best), ("worst", worst)]
    for rank, sample in rows:
        cut = "" if sample.finish_reason == "stop" else " [cut off at the length limit]"
        reward = Text(_number(sample.reward or 0.0))
        prompt = Text(_shortened(sample.prompt, PROMPT_CHARACTERS))
        table.add_row(rank, reward, prompt, Text(_shortened(sample.completion, COMPLETION_CHARACTERS) + cut))
    return table


def _shortened(text: str, characters: int) -> str:
    """The start and the end: the instruction often stands first, the answer last."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} ... {text[-half:]}"


def _number(value: float) -> str:
    """Three digits that matter: 0.53, 11.2, 132, 1.2e-05."""
    if value == 0 or 0.01 <= abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if 10 <= abs(value) < 100 else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
