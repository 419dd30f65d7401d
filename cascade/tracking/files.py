"""Metrics as JSON lines and rollouts as parquet, in the run folder; what the report, `status` and people read."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from cascade.atomic import atomic, json_text, write_text
from cascade.run_folder import RunFolder
from cascade.tracking.samples import Decode, printable, prompt_text
from cascade.types import Rollout

LOGGER = logging.getLogger(__name__)

ROLLOUT_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "domain": pa.string(),
        "environment": pa.string(),
        "sample": pa.int32(),  # which of the G of its prompt
        "prompt": pa.string(),
        "completion": pa.string(),
        "reward": pa.float64(),  # null: a failure
        "parts": pa.string(),  # JSON
        "masked": pa.bool_(),  # kept from the gradient
        "finish_reason": pa.string(),
        "policy_version": pa.int64(),  # the oldest
        "versions": pa.string(),  # JSON: [version, tokens], in order
        "prompt_token_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "sampler_log_probs": pa.list_(pa.float32()),  # nats
        "sampled": pa.list_(pa.int8()),  # 0 where the environment wrote
        "part": pa.int32(),  # which part of an episode whose context was rewritten; rewards are on the last
        "failure": pa.string(),
    }
)


class FileTracker:
    """Appends `metrics.jsonl` and writes `rollouts/step_000012.parquet` of every stage.

    `decode` turns prompt tokens into the `prompt` column; without it the column holds the row's data as JSON. A full
    or failing disk is warned of once a stage and does not stop training.
    """

    def __init__(self, run: RunFolder, decode: Decode | None = None) -> None:
        self._run = run
        self._decode = decode
        self._files: dict[str, TextIOWrapper] = {}
        self._warned: set[str] = set()

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line `{"step", "time", ...}`; `time` in seconds since 1970, UTC; NaN and infinities as null."""
        line = json_text({"step": step, "time": round(time.time(), 3), **metrics})
        try:
            file = self._open(stage)
            file.write(line + "\n")
            file.flush()
        except OSError as error:
            self._warn(stage, error)

    def rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Write the rollouts of a step, atomically; nothing when there are none."""
        if not rollouts:
            return
        table = pa.Table.from_pylist(
            [_record(part, number, self._decode) for rollout in rollouts for number, part in enumerate(rollout.parts)],
            schema=ROLLOUT_SCHEMA,
        )
        try:
            with atomic(rollout_file(self._run, stage, step)) as temporary:
                parquet.write_table(table, temporary, compression="zstd")
        except OSError as error:
            self._warn(stage, error)

    def rewind(self, stage: str, step: int) -> None:
        """Forget what lies after `step`: later metric lines, a torn last line, later rollouts. For a resumed run."""
        if stage in self._files:
            self._files.pop(stage).close()
        path = self._run.metrics(stage)
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            write_text(path, "".join(json_text(line) + "\n" for line in kept))
        for file in rollout_files(self._run, stage):
            if _step_of(file) > step:
                file.unlink()
        for left in self._run.rollouts(stage).glob(".*.tmp"):  # of a writer that was killed
            left.unlink()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, stage: str) -> TextIOWrapper:
        if stage not in self._files:
            path = self._run.metrics(stage)
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(path)
            self._files[stage] = path.open("a", encoding="utf-8")
        return self._files[stage]

    def _warn(self, stage: str, error: OSError) -> None:
        if stage not in self._warned:
            self._warned.add(stage)
            LOGGER.warning("Metrics or rollouts of %s could not be written (%s); training goes on.", stage, error)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, oldest first, without any that a kill left torn; empty when there is no file."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def rollout_file(run: RunFolder, stage: str, step: int) -> Path:
    """Where the rollouts of a step lie."""
    return run.rollouts(stage) / f"step_{step:06d}.parquet"


def rollout_files(run: RunFolder, stage: str) -> list[Path]:
    """All rollout files of a stage, earliest step first."""
    return sorted(run.rollouts(stage).glob("step_*.parquet"), key=_step_of)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step_"))


def _drop_torn_line(path: Path) -> None:
    """Cut what follows the last newline, so that the next line does not grow onto it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)


def _record(rollout: Rollout, part: int, decode: Decode | None) -> dict[str, Any]:
    row, score = rollout.prompt.row, rollout.score
    return {
        "row_id": row.id,
        "domain": row.domain,
        "environment": row.environment,
        "sample": rollout.index,
        "prompt": prompt_text(rollout.prompt, decode),
        "completion": printable(rollout.text),
        "reward": None if score is None else score.reward,
        "parts": None if score is None else json_text(dict(score.parts)),
        "masked": None if score is None else score.masked,
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "versions": json_text([[span.version, span.tokens] for span in rollout.versions]),
        "prompt_token_ids": list(rollout.prompt.token_ids),
        "token_ids": list(rollout.token_ids),
        "sampler_log_probs": list(rollout.sampler_log_probs),
        "sampled": list(rollout.sampled or (1,) * len(rollout.token_ids)),
        "part": part,
        "failure": rollout.failure,
    }
