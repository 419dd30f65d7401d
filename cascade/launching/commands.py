"""The exact commands that launch a recipe, for a plan to print. Pure: nothing is started, asked or written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from cascade.config import Recipe
from cascade.launching.torchrun import torchrun_command


def commands(recipe: Recipe, words: Sequence[str] = ()) -> list[str]:
    """Shell lines in the order in which they are typed; a line that begins with `#` says where.

    `words`: the command line that named the recipe (`recipe=NAME`, then overrides); by default its name alone.
    """
    given = shlex.join(words or [f"recipe={recipe.name}"])
    match recipe.launch.kind:
        case "inline":
            return [f"cascade run {given}"]
        case "torchrun" if recipe.launch.nodes == 1:
            return [f"cascade run {given}"]
        case "torchrun":
            return _on_every_node(recipe, words or [f"recipe={recipe.name}"])
        case "slurm":
            written = job_file(recipe)
            return [
                "# on a login node; the run folder must be on a file system that all nodes share",
                f"cascade launch {given}  # writes {written}, to be read",
                f"cascade run {given}  # writes it and submits it: sbatch {written}",
            ]
        case "kubernetes":
            written = manifest_file(recipe)
            return [
                f"cascade launch {given}  # writes {written}, to be read",
                f"cascade run {given}  # writes it and applies it: kubectl apply -f {written}",
            ]


def job_file(recipe: Recipe) -> Path:
    """Where the SLURM script of a run is written."""
    return Path(recipe.run_dir) / "launch" / "job.sbatch"


def manifest_file(recipe: Recipe) -> Path:
    """Where the Kubernetes manifests of a run are written: here, for the run folder is often seen by pods only."""
    return Path(f"{recipe.name}.kubernetes.yaml")


def _on_every_node(recipe: Recipe, words: Sequence[str]) -> list[str]:
    launch = recipe.launch
    doctor = torchrun_command(launch, ["doctor", "--cluster", "--shared", recipe.run_dir], "python")
    return [
        f"# on each of {launch.nodes} nodes, within {launch.start_timeout_s:.0f} s of each other",
        shlex.join(doctor),
        f"cascade run {shlex.join(words)}",
        "# which is",
        shlex.join(torchrun_command(launch, ["run", *words], "python")),
    ]
