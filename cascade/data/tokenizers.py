"""The tokenizer of a recipe, with its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.config import ModelConfig
from cascade.data.characters import DEFAULT_ALPHABET, character_tokenizer
from cascade.data.rendering import bundled_template
from cascade.errors import DataError


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer that `model` names. Raises `DataError` when it has no chat template or no end-of-turn token."""
    if config.tokenizer == "characters":
        return character_tokenizer(DEFAULT_ALPHABET, bundled_template(config.chat_template or "characters"))
    from transformers import AutoTokenizer

    source = config.tokenizer or config.path
    tokenizer = AutoTokenizer.from_pretrained(source)
    if config.chat_template:
        tokenizer.chat_template = _template(config.chat_template)
    if not tokenizer.chat_template:
        raise DataError(
            f"The tokenizer of {source} has no chat template.",
            "Set `model.chat_template` to `chatml` or to a .jinja file.",
        )
    if tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer of {source} has no end-of-sequence token.", "Set its `eos_token`.")
    return tokenizer


def pad_id_of(tokenizer: Any) -> int:
    """The token that fills rows: the tokenizer's own pad token, or its end-of-sequence token where it has none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def _template(name: str) -> str:
    file = Path(name)
    return file.read_text(encoding="utf-8") if file.suffix == ".jinja" else bundled_template(name)
