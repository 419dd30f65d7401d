"""One run of a checked recipe: its folder, its trackers, its end."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cascade import parallel
from cascade.atomic import write_json, write_text
from cascade.config import Recipe
from cascade.data.tokenizers import load_tokenizer
from cascade.errors import ConfigError
from cascade.identity import versions
from cascade.pipeline import Pipeline
from cascade.ports import Environment
from cascade.run_folder import RunFolder, read_status
from cascade.stage_graph import parents, resolved_keys
from cascade.stages.engines import Engines
from cascade.tracking.matrix import regression_matrix
from cascade.tracking.report import write_report
from cascade.tracking.stage import StageTrackers


def run_recipe(recipe: Recipe, order: list[str], environments: Mapping[str, Environment], asked: str) -> None:
    """Runs a checked recipe in its run folder. `asked` is what the user wrote, kept beside what it became."""
    parallel.start(recipe.launch.threads)
    run = RunFolder(Path(recipe.run_dir))
    with _alone(run):
        tokenizer = load_tokenizer(recipe.model)
        resolved = resolved_keys(recipe)
        parallel.on_first(lambda: _write_run(run, recipe, order, asked, resolved))
        trackers = StageTrackers(recipe, run, tokenizer, resolved)
        engines = Engines(recipe, environments, tokenizer, run.path / "rollout")
        try:
            Pipeline(recipe, order, environments, run, tokenizer, trackers, engines).execute()
        finally:
            engines.close()
            trackers.close()
            if parallel.rank() == 0:
                _summarise(run)


def _write_run(run: RunFolder, recipe: Recipe, order: list[str], asked: str, resolved: dict[str, Any]) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.recipe, asked)
    write_text(run.resolved, yaml.safe_dump(resolved, sort_keys=False))
    machine = {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count()}
    write_json(run.environment, {**machine, "versions": versions()})
    parent = parents(recipe)
    kinds = [{"name": name, "kind": recipe.stages[name].kind, "parent": parent[name]} for name in order]
    write_json(run.stages_file, kinds)


def _summarise(run: RunFolder) -> None:
    stages = read_status(run.path)["stages"]
    if any(stage["scores"] for stage in stages):
        print(regression_matrix(stages, "test"), flush=True)
        print(f"report: {write_report(run.path)}", flush=True)


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Keeps a second run out of the folder; the lock ends with the process, however it ends."""
    if parallel.rank() != 0:
        yield
        return
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another run is writing to {run.path}.", "Wait for it, or set another `run_dir`."
            ) from None
        yield
