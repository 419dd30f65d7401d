"""The tokens that end an answer."""

from __future__ import annotations

from typing import Any

from cascade.errors import EngineError


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's end token, then those of the model's generation config: many chat models have several.

    Raises `EngineError` when neither names one.
    """
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ids = [token for token in (tokenizer.eos_token_id, *configured) if token is not None]
    if not ids:
        raise EngineError("Neither tokenizer nor model names a token that ends an answer.", "Set `eos_token`.")
    return list(dict.fromkeys(ids))
