"""What an engine must know of a Hugging Face folder besides its weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, GenerationConfig

from cascade.errors import EngineError
from cascade.models.stop_tokens import stop_ids


def folder_stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer of the model in `folder`. Raises `EngineError` when there are none."""
    if (folder / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(folder)
    else:
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    return stop_ids(SimpleNamespace(generation_config=generation), tokenizer)


def longest_sequence(folder: Path, asked: int | None) -> int:
    """Tokens of prompt and completion: `asked`, or the model's own limit. Raises `EngineError` when it has none."""
    limit = asked or getattr(AutoConfig.from_pretrained(folder).get_text_config(), "max_position_embeddings", None)
    if limit is None:
        raise EngineError(f"The model in {folder} names no longest sequence.", "Set `rollout.max_model_len`.")
    return limit
