"""One Weights & Biases run for a whole recipe: metrics as `STAGE/metric` over `STAGE/step`, rollouts as tables."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal

from cascade.atomic import write_text
from cascade.tracking.samples import Decode, Sample, best_and_worst, sample_of
from cascade.types import Rollout

LOGGER = logging.getLogger(__name__)

LOGIN_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 120.0


class WandbTracker:
    """Sends metrics to wandb; its files land in `run_dir/wandb`, its run id in `run_dir/wandb_id`.

    The id is taken up again when a run resumes, also in another mode. `mode` "off" creates nothing. A step in
    `rollouts_every` sends the best and the worst rollout of every group, 0 for never. When wandb fails, or cannot be
    reached, one warning is logged and nothing more is sent: training goes on.
    """

    def __init__(
        self,
        run_dir: Path,
        project: str,
        name: str,
        mode: Literal["online", "offline", "off"],
        config: Mapping[str, Any],
        rollouts_every: int = 10,
        decode: Decode | None = None,
    ) -> None:
        self._rollouts_every = rollouts_every
        self._decode = decode
        self._stages: set[str] = set()
        self._run: Any = None  # wandb.Run
        if mode != "off":
            self._guarded(lambda: self._start(Path(run_dir), project, name, mode, config))

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._log(stage, step, lambda: metrics)

    def rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Log `STAGE/rollouts`, a table, when the step is due for one."""
        if self._rollouts_every <= 0 or step % self._rollouts_every or not rollouts:
            return
        self._log(stage, step, lambda: {"rollouts": _table(rollouts, self._decode)})

    def close(self) -> None:
        """Finish the wandb run; waits at most two minutes for what is not sent yet."""
        run = self._run
        if run is not None:
            self._guarded(run.finish)
        self._run = None

    def _start(
        self, run_dir: Path, project: str, name: str, mode: Literal["online", "offline"], config: object
    ) -> None:
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # else it advertises itself where vLLM has brought openai
        import wandb

        run_dir.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            login_timeout=LOGIN_TIMEOUT_S,  # the prompt for a key would wait for ever
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
        )
        self._run = wandb.init(
            project=project,
            name=name,
            id=_run_id(run_dir),
            resume="allow",
            mode=mode,
            dir=run_dir,
            config=config,  # pyright: ignore[reportArgumentType]
            settings=settings,
        )

    def _log(self, stage: str, step: int, values: Callable[[], Mapping[str, Any]]) -> None:
        if self._run is not None:
            self._guarded(lambda: self._send(stage, step, values()))

    def _send(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def _guarded(self, action: Callable[[], object]) -> None:
        from wandb.errors import Error

        try:
            action()
        except (Error, OSError) as error:
            self._run = None
            LOGGER.warning("wandb failed (%s: %s) and is off for the rest of this run.", type(error).__name__, error)


def _run_id(run_dir: Path) -> str:
    """The id of this run folder, made the first time."""
    path = run_dir / "wandb_id"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8").strip()


def _table(rollouts: Sequence[Rollout], decode: Decode | None) -> Any:
    import wandb

    pairs = best_and_worst(sample_of(rollout, decode) for rollout in rollouts)
    rows: list[Any] = [
        [rank, *astuple(sample)]
        for best, worst in pairs
        for rank, sample in ([("only", best)] if best is worst else [("best", best), ("worst", worst)])
    ]
    return wandb.Table(columns=["rank", *(f.name for f in fields(Sample))], data=rows)
