"""Whether a run begins in this process, or this process only starts those in which it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.config import Recipe
from cascade.errors import ConfigError, EngineError
from cascade.launching.environment import LAUNCH, inside_a_launcher, inside_our_job
from cascade.launching.torchrun import start_torchrun


def start_elsewhere(recipe: Recipe, words: Sequence[str], arguments: Sequence[str]) -> bool:
    """Starts torchrun in this process's place, or submits a job and returns True; False: the run begins here.

    `words`: recipe and overrides; `arguments`: the whole command line. Raises `EngineError` where submitting fails.
    """
    kind = recipe.launch.kind
    if inside_a_launcher() or kind == "inline":
        return False
    if kind == "torchrun":
        start_torchrun(recipe.launch, arguments)
    if inside_our_job():
        raise EngineError(f"{LAUNCH} is set, but no launcher has started this process.", "Let srun or torchrun do it.")
    file = write_files(recipe, words)
    if kind == "slurm":
        from cascade.launching.slurm import submit

        print(f"submitted job {submit(file)}: {file}; logs in {file.parent / 'logs'}")
    else:
        from cascade.launching.kubernetes import apply

        print(f"{apply(file)}\n{file}")
    return True


def write_files(recipe: Recipe, words: Sequence[str]) -> Path:
    """Writes the job or the manifests of a run into its folder, and starts nothing. Raises `ConfigError`."""
    match recipe.launch.kind:
        case "slurm":
            from cascade.launching.slurm import write_job

            return write_job(recipe, words)
        case "kubernetes":
            from cascade.launching.kubernetes import write_manifests

            return write_manifests(recipe, words)
        case kind:
            raise ConfigError(f"launch={kind} needs no files.", "Use `cascade run`, or launch=slurm or kubernetes.")
