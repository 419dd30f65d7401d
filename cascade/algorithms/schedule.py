"""Learning-rate schedules as functions of the step, so that there is no state to resume."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    max_steps: int,
    warmup_steps: int,
    warmup_start_ratio: float,
    shape: Literal["constant", "cosine", "linear"],
    min_ratio: float,
) -> float:
    """The rate of optimiser step `step` (from 0).

    Linear from `warmup_start_ratio * peak` to `peak` over `warmup_steps`, then constant, or a cosine or line that
    reaches `min_ratio * peak` at the last step.
    """
    if step < warmup_steps:
        return peak * (warmup_start_ratio + (1 - warmup_start_ratio) * step / warmup_steps)
    if shape == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress
    return peak * (min_ratio + (1 - min_ratio) * falling)
