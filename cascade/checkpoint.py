"""Saving and restoring the whole state of a stage, so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.atomic import commit_folder, is_complete
from cascade.errors import EngineError
from cascade.ports import Policy

KEPT = 2  # checkpoints; the one before the last survives a disk that fails while the last is written


@dataclass(frozen=True)
class StageState:
    """Where a stage stands besides the engine's own state."""

    identity: str  # of the stage that saved it
    step: int  # optimiser steps done
    wall_s: float  # seconds spent so far
    mixture: Mapping[str, Any]  # data cursor
    sharding: Mapping[str, Any]  # what has to be the same to go on


def save(policy: Policy, folder: Path, state: StageState) -> None:
    """Writes `folder/step_000100` atomically and removes all but the newest two. Collective."""
    final = folder / f"step_{state.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    if parallel.rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    parallel.barrier()
    policy.save(temporary, vars(state))
    parallel.barrier()
    if parallel.rank() == 0:
        commit_folder(temporary, final)
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    parallel.barrier()


def restore(policy: Policy, folder: Path, identity: str, sharding: Mapping[str, Any]) -> StageState | None:
    """Loads the newest complete checkpoint of this very stage into the policy; None when there is none. Collective.

    Raises `EngineError` when it was saved under another sharding: its optimiser state does not fit this one.
    """
    found = parallel.broadcast(complete_checkpoints(folder))
    if not found:
        return None
    state = StageState(**policy.load(found[-1]))
    if dict(state.sharding) != dict(sharding):
        changed = sorted(key for key in sharding if sharding[key] != state.sharding.get(key))
        raise EngineError(
            f"{found[-1]} was saved with {dict(state.sharding)}, not {dict(sharding)} ({', '.join(changed)}).",
            f"Go on with the settings it was saved with, or delete {folder} to train the stage again.",
        )
    if state.identity != identity:
        raise EngineError(f"{found[-1]} belongs to another stage, {state.identity}.", f"Delete {folder}.")
    return state


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints one can resume from, oldest first."""
    return [path for path in sorted(folder.glob("step_*")) if is_complete(path)]
