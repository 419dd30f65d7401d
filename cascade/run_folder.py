"""A run on disk: where everything lies, and the state of its stages."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cascade.atomic import COMPLETE, atomic, commit_folder, is_complete, json_text, write_json, write_text
from cascade.errors import ConfigError, DataError
from cascade.types import GateResult, Scores, SplitScore, StageResult

__all__ = [
    "COMPLETE",
    "RunFolder",
    "StageStatus",
    "Status",
    "atomic",
    "checkpoint_stages",
    "commit_folder",
    "is_complete",
    "json_text",
    "read_status",
    "write_json",
    "write_text",
]

Status = Literal["pending", "running", "done", "failed", "stopped", "rolled_back"]


@dataclass(frozen=True, slots=True)
class StageStatus:
    """What `status.json` says of a stage, e.g. `StageStatus("if_rl", "rl", "sft", "running", steps=12)`."""

    name: str
    kind: str
    parent: str | None  # stage name
    status: Status = "pending"
    steps: int = 0  # optimiser steps taken
    wall_s: float = 0.0
    identity: str = ""  # hex hash of what makes the stage
    teachers: Mapping[str, str] = field(default_factory=dict)  # domain -> checkpoint identity
    scores: Scores = field(default_factory=dict)
    gates: Sequence[GateResult] = ()

    @classmethod
    def of(cls, result: StageResult, status: Status) -> StageStatus:
        """The status of a stage that has a result."""
        return cls(status=status, **{f.name: getattr(result, f.name) for f in fields(result)})

    def as_dict(self) -> dict[str, Any]:
        """The JSON shape; `pass_at_k` and `k` of a score appear when k > 1."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        scores = {split: {d: _score_dict(s) for d, s in by.items()} for split, by in self.scores.items()}
        return plain | {"teachers": dict(self.teachers), "scores": scores, "gates": [asdict(g) for g in self.gates]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StageStatus:
        """The inverse of `as_dict`, with null as NaN where a number is due. Raises `DataError` on other shapes."""
        try:
            scores = {
                split: {d: SplitScore(**_numbers(s, "mean", "stderr")) for d, s in by.items()}
                for split, by in plain["scores"].items()
            }
            gates = tuple(GateResult(**_numbers(g, "threshold", "value")) for g in plain["gates"])
            return cls(**{**plain, "scores": scores, "gates": gates})
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"A stage status does not have the expected shape ({error}).",
                "Write it with RunFolder.write_status, or delete the stage's folder to run it again.",
            ) from error


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of one run, e.g. `RunFolder(Path("runs/quickstart")).model("if_rl")`."""

    path: Path

    @property
    def registry(self) -> Path:
        return self.path / "registry.db"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        return self.path / "resolved.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def stages_file(self) -> Path:
        """`[{"name", "kind", "parent"}, ...]` in recipe order, written when the run starts."""
        return self.path / "stages.json"

    def stage(self, name: str) -> Path:
        return self.path / "stages" / name

    def stage_status(self, name: str) -> Path:
        return self.stage(name) / "status.json"

    def metrics(self, name: str) -> Path:
        return self.stage(name) / "metrics.jsonl"

    def rollouts(self, name: str) -> Path:
        return self.stage(name) / "rollouts"

    def checkpoints(self, name: str) -> Path:
        return self.stage(name) / "checkpoints"

    def model(self, name: str) -> Path:
        return self.stage(name) / "model"

    def evaluation(self, name: str) -> Path:
        return self.stage(name) / "evaluation.json"

    def write_status(self, status: StageStatus) -> None:
        """Replace the stage's `status.json` atomically."""
        write_json(self.stage_status(status.name), status.as_dict())

    def stage_state(self, name: str) -> StageStatus | None:
        """What `status.json` says, None when the stage never began. Raises `DataError` when it cannot be read."""
        path = self.stage_status(name)
        return StageStatus.from_dict(_read_json(path)) if path.exists() else None


def read_status(run_dir: Path) -> dict[str, Any]:
    """The state of a run: `{"run", "stages": [StageStatus.as_dict(), ...] in recipe order, "registry": checkpoints}`.

    Raises `ConfigError` when `run_dir` is not a run and `DataError` when one of its files cannot be read.
    """
    run = RunFolder(Path(run_dir))
    if not run.stages_file.is_file():
        why = "has no stages.json" if run.path.is_dir() else "does not exist"
        raise ConfigError(
            f"{run_dir} is not a run: it {why}.", "Name the output folder of a `cascade run`, such as runs/NAME."
        )
    stages = []
    for declared in _read_json(run.stages_file):
        empty = StageStatus(declared["name"], declared["kind"], declared["parent"])
        stages.append((run.stage_state(empty.name) or empty).as_dict())
    return {"run": run.path.resolve().name, "stages": stages, "registry": len(checkpoint_stages(run))}


def checkpoint_stages(run: RunFolder) -> dict[str, str]:
    """Identity of every registered checkpoint -> its stage, in order of registration; empty without a registry."""
    if not run.registry.is_file():
        return {}
    try:
        # mode=rw and not ro: after a kill the first reader has to roll the unfinished transaction back
        with closing(sqlite3.connect(f"{run.registry.resolve().as_uri()}?mode=rw", uri=True, timeout=30)) as database:
            return dict(database.execute("SELECT identity, stage FROM checkpoints ORDER BY position").fetchall())
    except sqlite3.Error as error:
        raise DataError(
            f"{run.registry} cannot be read ({error}).",
            "Restore it from a copy, or delete it and run the recipe again.",
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON ({error}).", "It was changed outside of Cascade: restore or delete it."
        ) from error


def _score_dict(score: SplitScore) -> dict[str, float]:
    plain: dict[str, float] = {"mean": score.mean, "stderr": score.stderr, "n": score.n}
    if score.k > 1 and score.pass_at_k is not None:
        plain |= {"pass_at_k": score.pass_at_k, "k": score.k}
    return plain


def _numbers(plain: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """`plain` with null turned back into NaN where a number is due."""
    return {**plain, **{key: math.nan for key in keys if plain[key] is None}}
