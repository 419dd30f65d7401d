"""One node of a job's Ray cluster for verifiers: `python -m cascade.launching.ray_node RECIPE_WORDS`.

Task 0 is the head and leaves its address in the run folder. The nodes that train join without CPUs, so that every
verdict is made on the nodes that are for verdicts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from cascade.compose import load_recipe
from cascade.errors import CascadeError
from cascade.launching.addresses import leave, left, meeting_folder, own_address, own_number
from cascade.processes import end_with_parent
from cascade.serving.replica import free_port

HEAD = "verifiers-0"
"""The name under which the head's HOST:PORT is left."""


def ray_command(address: str | None, own: str, port: int = 0, cpus: int | None = None) -> list[str]:
    """Runs a Ray node in the foreground: the head where `address` is None, else one that joins it."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    words += ["--node-ip-address", own]
    words += ["--head", "--port", str(port), "--include-dashboard=false"] if address is None else ["--address", address]
    return words if cpus is None else [*words, "--num-cpus", str(cpus)]


def start_node(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts it so that it ends with this process."""
    parent = os.getpid()
    return subprocess.Popen(command, preexec_fn=lambda: end_with_parent(parent))


def main(words: Sequence[str]) -> None:
    """Runs until the job ends."""
    recipe, _ = load_recipe(words[0].removeprefix("recipe="), words[1:])
    folder, own = meeting_folder(recipe.run_dir), own_address()
    number, _ = own_number()
    try:
        if number == 0:
            port = free_port()
            leave(folder, HEAD, f"{own}:{port}")  # who joins tries until it is there
            sys.exit(start_node(ray_command(None, own, port)).wait() or 1)
        address = left(folder, [HEAD], recipe.launch.start_timeout_s)[HEAD]
        sys.exit(start_node(ray_command(address, own)).wait() or 1)
    except CascadeError as error:
        print(f"cascade: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
