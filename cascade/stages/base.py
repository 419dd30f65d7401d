"""The base model of a run as a checkpoint: built from scratch, or the folder that was named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.atomic import is_complete
from cascade.config import Recipe
from cascade.identity import hash_of, versions
from cascade.models.loading import build_model, check_declared
from cascade.policy.export import save_folder
from cascade.run_folder import RunFolder
from cascade.stage_graph import BASE
from cascade.teachers.weights import weights_sha256
from cascade.types import Checkpoint


def prepare_base(recipe: Recipe, run: RunFolder, tokenizer: Any) -> Checkpoint:
    """Builds the model from scratch in the run folder, or finds the one that was named. Collective."""
    return parallel.on_first(lambda: _build(recipe, run, tokenizer) if recipe.model.path is None else _find(recipe))


def _build(recipe: Recipe, run: RunFolder, tokenizer: Any) -> Checkpoint:
    model = recipe.model
    identity = hash_of({"model": model, "seed": recipe.seed})
    relative = Path(BASE) / identity / "model"
    folder = run.path / relative
    if not is_complete(folder):
        special = {
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }
        built = build_model(str(model.architecture), model.config, recipe.seed, len(tokenizer), special)
        save_folder(built, folder, tokenizer, {"identity": identity, "stage": BASE, "step": 0}, None)
    return _checkpoint(identity, folder, recipe, str(relative))


def _find(recipe: Recipe) -> Checkpoint:
    path = str(recipe.model.path)
    if not Path(path).is_dir():
        from huggingface_hub import snapshot_download

        path = snapshot_download(path)
    check_declared(recipe.model, path)
    identity = hash_of({"model": recipe.model, "weights": weights_sha256(Path(path))})
    return _checkpoint(identity, Path(path), recipe, str(Path(path).absolute()))


def _checkpoint(identity: str, folder: Path, recipe: Recipe, path: str) -> Checkpoint:
    return Checkpoint(
        identity=identity,
        stage=BASE,
        step=0,
        kind=BASE,
        parent=None,
        path=path,
        config_hash=hash_of(recipe.model),
        data_fingerprint="",
        weights_sha256=weights_sha256(folder),
        versions=versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
