"""All the places a stage's numbers go, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.config import Recipe
from cascade.run_folder import RunFolder
from cascade.tracking.console import ConsoleTracker
from cascade.tracking.files import FileTracker
from cascade.tracking.wandb import WandbTracker
from cascade.types import Rollout


class StageTrackers:
    """Console, files and wandb on rank 0; nothing on the other ranks."""

    def __init__(self, recipe: Recipe, run: RunFolder, tokenizer: Any, config: Mapping[str, Any]) -> None:
        self._first = parallel.rank() == 0
        if not self._first:
            return
        tracking = recipe.tracking
        self._rollouts_every = tracking.rollouts_every
        self.console = ConsoleTracker(tracking.samples_every, decode=tokenizer.decode)
        self.files = FileTracker(run, decode=tokenizer.decode)
        self.wandb = WandbTracker(
            Path(run.path),
            tracking.wandb_project,
            run.path.name,
            tracking.wandb,
            config,
            tracking.samples_every,
            tokenizer.decode,
        )

    def begin(self, stage: str, kind: str, total_steps: int, done_steps: int) -> None:
        """A stage starts, or goes on after `done_steps`; what was recorded of later steps is dropped."""
        if self._first:
            self.files.rewind(stage, done_steps)
            self.console.begin(stage, kind, total_steps, done_steps)

    def say(self, line: str) -> None:
        """One line on the console."""
        if self._first:
            print(line, flush=True)

    def step(self, stage: str, step: int, metrics: Mapping[str, float], rollouts: Sequence[Rollout]) -> None:
        """Records step `step`, counted from 1."""
        if not self._first:
            return
        for tracker in (self.console, self.files, self.wandb):
            tracker.step(stage, step, metrics)
        self.console.rollouts(stage, step, rollouts)
        self.wandb.rollouts(stage, step, rollouts)
        if rollouts and self._rollouts_every and step % self._rollouts_every == 0:
            self.files.rollouts(stage, step, rollouts)

    def close(self) -> None:
        """Nothing is recorded after this."""
        if self._first:
            for tracker in (self.console, self.files, self.wandb):
                tracker.close()
