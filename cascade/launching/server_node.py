"""One vLLM server of a job: `python -m cascade.launching.server_node rollout|teachers RECIPE_WORDS`.

It waits for the base model, starts vLLM on it, leaves its address in the run folder, and starts vLLM again on the same
port when that has died. It ends when the run does; earlier only by an error.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cascade.compose import load_recipe
from cascade.config import Recipe
from cascade.errors import CascadeError, EngineError
from cascade.launching.addresses import ENDED, leave, left, meeting_folder, own_address, own_number
from cascade.rollout.checkpoint_folder import longest_sequence
from cascade.serving.arguments import require_vllm, served_arguments, served_environment
from cascade.serving.client import Client
from cascade.serving.replica import Replica

POLL_S = 1.0
FAILED_STARTS = 3  # in a row, then the part fails and with it the job


def main(words: Sequence[str]) -> None:
    """Serves until the run ends."""
    role, named, *overrides = words
    recipe, _ = load_recipe(named.removeprefix("recipe="), overrides)
    try:
        require_vllm()
        asyncio.run(_serve(recipe, role))
    except CascadeError as error:
        print(f"cascade: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


async def _serve(recipe: Recipe, role: str) -> None:
    number, local = own_number()
    folder, name = meeting_folder(recipe.run_dir), f"{role}-{number}"
    base = Path(left(folder, ["base"], recipe.launch.start_timeout_s)["base"])
    os.environ["LOCAL_WORLD_SIZE"] = "0"  # no training process takes GPUs of this node
    log = Path(recipe.run_dir) / "launch" / "logs" / f"{name}.log"
    replica = Replica(number, served_environment(local, recipe.rollout), log)
    address = own_address()
    max_tokens = longest_sequence(base, recipe.rollout.max_model_len)
    arguments = served_arguments(base, replica.port, max_tokens, recipe.policy, recipe.rollout)
    arguments[arguments.index("--host") + 1] = address
    client = Client(f"http://{address}:{replica.port}", recipe.rollout.request_timeout_s)
    failures: list[EngineError] = []
    try:
        while len(failures) < FAILED_STARTS:
            replica.start(arguments, lambda how: print(f"cascade: {name}: vLLM {how}", flush=True))
            try:
                await _healthy(replica, client, recipe.rollout.start_timeout_s)
            except EngineError as error:
                failures.append(error)
                continue
            failures.clear()
            leave(folder, name, client.url)
            print(f"cascade: {name} is at {client.url}; its log is {log}", flush=True)
            while replica.running:
                if (folder / f"{ENDED}.json").exists():
                    return
                await asyncio.sleep(POLL_S)
    finally:
        await replica.stop()
    raise failures[0]


async def _healthy(replica: Replica, client: Client, timeout_s: float) -> None:
    began = time.monotonic()
    while not await client.healthy():
        if not replica.running:
            raise replica.failure("did not start")
        if time.monotonic() - began > timeout_s:
            replica.kill()
            await replica.end()
            raise replica.failure(f"did not start in {timeout_s:.0f} s")
        await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    main(sys.argv[1:])
