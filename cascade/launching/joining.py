"""What training does to find the other parts of its job: it gives the base model, and takes addresses."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cascade import parallel
from cascade.config import Recipe
from cascade.data.tokenizers import load_tokenizer
from cascade.errors import EngineError
from cascade.launching.addresses import ENDED, leave, left, meeting_folder, own_address
from cascade.launching.ray_node import HEAD, ray_command, start_node
from cascade.run_folder import RunFolder
from cascade.stages.base import prepare_base


@contextmanager
def with_other_parts(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with the addresses of its job's servers and verifiers. Collective.

    Raises `EngineError` naming the parts that are not there within `launch.start_timeout_s`.
    """
    launch = recipe.launch
    if not (launch.rollout_nodes or launch.teacher_nodes or launch.verifier_nodes):
        yield recipe
        return
    folder = parallel.everywhere(lambda: meeting_folder(recipe.run_dir))
    if launch.rollout_nodes or launch.teacher_nodes:
        run = RunFolder(Path(recipe.run_dir))
        base = prepare_base(recipe, run, load_tokenizer(recipe.model))
        parallel.on_first(lambda: leave(folder, "base", str((run.path / base.path).absolute())))
    yield parallel.on_first(lambda: _joined(recipe, folder)) if not launch.verifier_nodes else _with_ray(recipe, folder)
    parallel.on_first(lambda: leave(folder, ENDED, True))


def _joined(recipe: Recipe, folder: Path) -> Recipe:
    """With URLs in place of servers of its own."""
    launch = recipe.launch
    for nodes, section in ((launch.rollout_nodes, "rollout"), (launch.teacher_nodes, "teachers")):
        if nodes:
            config = getattr(recipe, section)
            names = [f"{section}-{number}" for number in range(config.replicas)]
            found = left(folder, names, launch.start_timeout_s)
            recipe = replace(recipe, **{section: replace(config, urls=[found[name] for name in names], replicas=1)})
    return recipe


def _with_ray(recipe: Recipe, folder: Path) -> Recipe:
    """With the address of the Ray cluster, which every training node has joined without CPUs."""
    recipe = parallel.on_first(lambda: _joined(recipe, folder))
    timeout_s = recipe.launch.start_timeout_s
    address = parallel.on_first(lambda: left(folder, [HEAD], timeout_s))[HEAD]
    parallel.everywhere(lambda: _reached(address, timeout_s))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        start_node(ray_command(address, own_address(), cpus=0))
    return replace(recipe, verifiers=replace(recipe.verifiers, address=address))


def _reached(address: str, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    until = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=3.0).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise EngineError(
                    f"Ray's head at {address} did not answer in {timeout_s:.0f} s: {error}.",
                    "See the log of the verifiers.",
                ) from None
            time.sleep(0.5)
