"""What must hold between the keys that start processes. Checked on any laptop before anything is computed."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from cascade.config import Recipe
from cascade.errors import ConfigError
from cascade.origins import Origins

HOST_PORT = re.compile(r"[\w.-]+:\d{1,5}")
TIME_LIMIT = re.compile(r"(\d+-)?\d{1,4}(:\d\d){0,2}")
ONE_MACHINE = ("shm", "ipc")
"""Ways of published weights that do not leave the machine of the training processes."""


def check_launch(recipe: Recipe, origins: Origins) -> None:
    """Raises `ConfigError` for the first thing that cannot be."""
    _check_processes(recipe, origins)
    _check_rendezvous(recipe, origins)
    _check_server_nodes(recipe, origins)
    _check_slurm(recipe, origins)
    _check_kubernetes(recipe, origins)


def training_processes(recipe: Recipe) -> int:
    """How many processes train: as many as a launcher has started, else as many as `launch` says."""
    return int(os.environ.get("WORLD_SIZE", "0")) or recipe.launch.world_size


def _check_processes(recipe: Recipe, origins: Origins) -> None:
    launch = recipe.launch
    key = "nodes" if launch.nodes > 1 else "processes"
    where = origins.of(["launch", key])
    if launch.kind == "inline" and launch.world_size > 1:
        raise ConfigError(
            f"`launch.{key}` is {getattr(launch, key)} in {where}, but `launch` is inline: {key} needs "
            "launch=torchrun.",
            "Add `launch=torchrun` (or slurm, or kubernetes).",
        )
    started = os.environ.get("WORLD_SIZE")
    if launch.kind != "inline" and started and int(started) != launch.world_size:
        many = f", on {launch.nodes} nodes," if launch.nodes > 1 else ""
        raise ConfigError(
            f"`launch.processes` is {launch.processes} in {origins.of(['launch', 'processes'])}{many} but a launcher "
            f"has started {started}.",
            "Give both the same number, or leave the launching to that launcher with `launch=inline`.",
        )


def _check_rendezvous(recipe: Recipe, origins: Origins) -> None:
    launch = recipe.launch
    several = launch.kind == "torchrun" and launch.nodes > 1
    if launch.rendezvous is not None and not several:
        raise ConfigError(
            f"`launch.rendezvous` in {origins.of(['launch', 'rendezvous'])} does nothing: only launch=torchrun with "
            "`launch.nodes` above 1 meets there.",
            "Remove it.",
        )
    if several and not HOST_PORT.fullmatch(launch.rendezvous or ""):
        raise ConfigError(
            f"`launch.nodes` is {launch.nodes} in {origins.of(['launch', 'nodes'])}, and `launch.rendezvous` is "
            f"{launch.rendezvous or 'not set'}.",
            "Set it to HOST:PORT, HOST being one of the nodes and PORT free there, e.g. "
            "`launch.rendezvous=node1:29400`.",
        )
    if launch.max_restarts and launch.kind in ("inline", "slurm"):
        where = origins.of(["launch", "max_restarts"])
        raise ConfigError(
            f"`launch.max_restarts` in {where} does nothing with launch={launch.kind}.",
            "Use launch=torchrun, or remove it; a SLURM job is queued again as `launch.slurm.requeue` says.",
        )


def _check_server_nodes(recipe: Recipe, origins: Origins) -> None:
    launch = recipe.launch
    for key, section in (("rollout_nodes", "rollout"), ("teacher_nodes", "teachers")):
        nodes, config = getattr(launch, key), getattr(recipe, section)
        if not nodes:
            continue
        where = f"`launch.{key}` is {nodes} in {origins.of(['launch', key])}"
        if launch.kind not in ("slurm", "kubernetes"):
            raise ConfigError(
                f"{where}, but launch={launch.kind} starts no servers elsewhere.", f"Remove it; see `{section}.urls`."
            )
        if config.engine != "vllm_server" or config.urls:
            why = "names servers that run already" if config.urls else f"is {config.engine}, which has no servers"
            raise ConfigError(f"{where}, but `{section}` {why}.", f"Use {section}=vllm_server without `urls`.")
        if config.replicas % nodes:
            raise ConfigError(
                f"{where}, which do not divide the {config.replicas} servers of `{section}.replicas` in "
                f"{origins.of([section, 'replicas'])}.",
                f"Choose a multiple of {nodes} servers.",
            )
    if launch.rollout_nodes and recipe.rollout.transport in ONE_MACHINE:
        raise ConfigError(
            f"`rollout.transport` is {recipe.rollout.transport} in {origins.of(['rollout', 'transport'])}, which does "
            f"not leave the machine, but `launch.rollout_nodes` is {launch.rollout_nodes}.",
            "Use disk or gloo, and nccl between GPUs.",
        )
    if launch.verifier_nodes and (launch.kind != "slurm" or recipe.verifiers.engine != "ray"):
        raise ConfigError(
            f"`launch.verifier_nodes` is {launch.verifier_nodes} in {origins.of(['launch', 'verifier_nodes'])}, but "
            f"launch is {launch.kind} and verifiers {recipe.verifiers.engine}.",
            "It needs launch=slurm and verifiers=ray; elsewhere start a Ray cluster and set `verifiers.address`.",
        )
    if launch.verifier_nodes and recipe.verifiers.address:
        raise ConfigError(
            f"`launch.verifier_nodes` in {origins.of(['launch', 'verifier_nodes'])} starts a Ray cluster, but "
            "`verifiers.address` names one that runs already.",
            "Remove one of the two.",
        )


def _check_slurm(recipe: Recipe, origins: Origins) -> None:
    slurm = recipe.launch.slurm
    if slurm.time_limit and not TIME_LIMIT.fullmatch(slurm.time_limit):
        raise ConfigError(
            f"`launch.slurm.time_limit` is `{slurm.time_limit}` in {origins.of(['launch', 'slurm', 'time_limit'])}.",
            "Write it as HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS, in quotes.",
        )
    for key in ("partition", "account", "constraint", "gres", "container"):
        value = getattr(slurm, key) or ""
        if re.search(r"[\s'\"$`\\]", value):
            raise ConfigError(
                f"`launch.slurm.{key}` is `{value}` in {origins.of(['launch', 'slurm', key])}, which is no word.",
                "Remove blanks and quotes; what has no key goes into `launch.slurm.lines`.",
            )


def _check_kubernetes(recipe: Recipe, origins: Origins) -> None:
    config = recipe.launch.kubernetes
    if recipe.launch.kind != "kubernetes":
        return
    for key in ("image", "volume_claim"):
        if not getattr(config, key):
            where = origins.of(["launch", "kind"])
            raise ConfigError(
                f"`launch` is kubernetes in {where}, and `launch.kubernetes.{key}` is not set.",
                f"Set it: {'the image holds Cascade' if key == 'image' else 'the volume holds the run folder'}.",
            )
    if not PurePosixPath(recipe.run_dir).is_relative_to(config.mount):
        raise ConfigError(
            f"`run_dir` is {recipe.run_dir} in {origins.of(['run_dir'])}, which is not on the shared volume at "
            f"{config.mount}.",
            f"Set `run_dir={config.mount}/{recipe.name}`.",
        )
