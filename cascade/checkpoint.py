"""Saving and restoring the whole state of a stage, so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.atomic import commit_folder, is_complete, write_json
from cascade.errors import EngineError
from cascade.ports import Trainee
from cascade.types import SampledBatch

LABEL = "made_by.json"  # identity and sharding, to be read before the engine's own files
KEPT = 2  # checkpoints; the one before the last survives a disk that fails while the last is written


@dataclass(frozen=True)
class StageState:
    """Where a stage stands besides the engine's own state."""

    identity: str  # of the stage that saved it
    step: int  # optimiser steps done
    wall_s: float  # seconds spent so far
    mixture: Mapping[str, Any]  # data cursor
    sharding: Mapping[str, Any]  # what has to be the same to go on
    waiting: Sequence[SampledBatch] = ()  # sampled ahead, to be trained on next


def save(policy: Trainee, folder: Path, state: StageState) -> None:
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
        write_json(temporary / LABEL, {"identity": state.identity, "sharding": state.sharding})
        commit_folder(temporary, final)
        kept = complete_checkpoints(folder)[-KEPT:]
        for other in folder.iterdir():  # older ones, and what kills have left half-written
            if other not in kept:
                shutil.rmtree(other)
    parallel.barrier()


def restore(policy: Trainee, folder: Path, identity: str, sharding: Mapping[str, Any]) -> StageState | None:
    """Loads the newest complete checkpoint of this very stage into the policy; None when there is none. Collective.

    Raises `EngineError` when it was saved under another sharding: its optimiser state does not fit this one.
    """
    found = parallel.on_first(lambda: _newest(folder, identity, sharding))
    return None if found is None else StageState(**policy.load(found))


def _newest(folder: Path, identity: str, sharding: Mapping[str, Any]) -> Path | None:
    """The newest complete checkpoint, its label checked: an engine would fail inside its own loading."""
    found = complete_checkpoints(folder)
    if not found:
        return None
    label = json.loads((found[-1] / LABEL).read_text())
    if label["sharding"] != dict(sharding):
        changed = ", ".join(sorted(key for key in sharding if sharding[key] != label["sharding"].get(key)))
        raise EngineError(
            f"{found[-1]} was saved with another {changed}: {label['sharding']}, not {dict(sharding)}.",
            f"Go on with the settings it was saved with, or delete {folder} to train the stage again.",
        )
    if label["identity"] != identity:
        raise EngineError(f"{found[-1]} belongs to another stage, {label['identity']}.", f"Delete {folder}.")
    return found[-1]


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints one can resume from, oldest first."""
    complete = [path for path in folder.glob("step_*") if is_complete(path)]
    return sorted(complete, key=lambda path: int(path.name.removeprefix("step_")))
