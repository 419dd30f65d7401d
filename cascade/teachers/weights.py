"""Whether a Hugging Face folder still holds the weights its record speaks of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cascade.errors import RegistryError

CHUNK_BYTES = 1 << 20
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
INDEX = "model.safetensors.index.json"


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 over the contents of `*.safetensors` in the order of their names, read in pieces.

    Raises `RegistryError` when the folder holds no safetensors.
    """
    shards = sorted(Path(folder).glob("*.safetensors"))
    if not shards:
        raise RegistryError(
            f"{folder} holds no *.safetensors.",
            "Export the checkpoint with safe serialisation and register that folder.",
        )
    digest = hashlib.sha256()
    for shard in shards:
        with shard.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def folder_problems(folder: Path, expected_sha256: str) -> list[str]:
    """One sentence for everything that keeps the folder from being loaded as recorded; empty when sound."""
    if not folder.is_dir():
        return [f"The folder {folder} is missing."]
    problems = []
    if not (folder / "config.json").is_file():
        problems.append(f"{folder} has no config.json.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        problems.append(f"{folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}).")
    problems += [f"{folder} lacks the shard {name} its index names." for name in _missing_shards(folder)]
    if not any(folder.glob("*.safetensors")):
        problems.append(f"{folder} holds no *.safetensors.")
    elif (found := weights_sha256(folder)) != expected_sha256:
        problems.append(f"The weights in {folder} have SHA-256 {found[:12]}, recorded was {expected_sha256[:12]}.")
    return problems


def _missing_shards(folder: Path) -> list[str]:
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return [f"list itself: {INDEX} cannot be read, so no shard"]
    return sorted(name for name in shards if not (folder / name).is_file())
