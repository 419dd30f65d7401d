"""Reward models: the backbone of a language model with a scalar head, as transformers' sequence classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.models.loading import DTYPES, kernels, require_separable
from cascade.models.mamba_documents import document_keywords, keep_documents_apart

HEAD = "score.weight"
LABEL = "reward"  # of the one class, in the exported config


def require_reward_head(folder: str | Path) -> None:
    """Raises `EngineError` naming the architecture of `folder` when transformers has no classifier of it."""
    architecture = AutoConfig.from_pretrained(folder).model_type
    if architecture not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise EngineError(
            f"There is no reward model of the architecture {architecture}: transformers has no sequence classifier of "
            "it.",
            "Remove the reward_model stage, or start from an architecture with one, e.g. qwen3_moe or llama.",
        )


def load_reward_model(path: str | Path, policy: PolicyConfig, pad_id: int, seed: int | None = None) -> Any:
    """The model in `path` with one class, in the policy's dtype and kernels.

    `path` holds a reward model, or, where `seed` is given, a language model: its backbone is taken over and the head
    is drawn from N(0, 1 / (d + 1)) for hidden states of d dimensions (Stiennon et al. 2020), from the seed alone.
    `pad_id` is written into the config: with it transformers finds the last token of a padded row.

    Raises `EngineError` for an architecture without a classifier, and when another tensor is missing or left over.
    """
    require_reward_head(path)
    config = AutoConfig.from_pretrained(path, num_labels=1, id2label={0: LABEL}, label2id={LABEL: 0})
    config.get_text_config().pad_token_id = pad_id
    require_separable(config, policy)
    with _without_load_report():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            str(path), config=config, dtype=DTYPES[policy.dtype], output_loading_info=True, **kernels(policy, config)
        )
    model, info = loaded
    _require_whole(path, info, from_language_model=seed is not None)
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise EngineError(
            f"{type(model).__name__} has no linear head `score` without a bias.", "Start from another architecture."
        )
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1) ** 0.5
        with torch.no_grad():
            head.weight.copy_(drawn)
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers warns of the heads that differ; `_require_whole` says what is wrong where something is."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def _require_whole(path: str | Path, info: dict[str, Any], *, from_language_model: bool) -> None:
    """Only the heads may differ: the language model's is left over, the reward's is missing."""
    allowed = {"missing_keys": {HEAD}, "unexpected_keys": {"lm_head.weight"}} if from_language_model else {}
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [str(name) for name in info.get(problem) or () if str(name) not in allowed.get(problem, ())]
        if found:
            raise EngineError(
                f"Loading {path} as a reward model left {len(found)} {problem.replace('_', ' ')}, e.g. {found[0]}.",
                "Export the checkpoint again with the same version of transformers, or repair its names.",
            )


class RewardHead(nn.Module):
    """A sequence classifier that answers with the score of one token a row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        keep_documents_apart(model)
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The score where the mask is 1, at most once a row; 0 for a row without. [B] float32 from [B, T] each.

        Padding stands behind the document and attention looks back only, so no attention mask is needed. A batch
        without a masked token still touches every parameter, so that all ranks take part in the same collectives.
        """
        rows, tokens = input_ids.shape
        if str(self.model.config._attn_implementation).startswith("flash"):  # one row: told apart by positions
            input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
        apart = document_keywords(self.model, position_ids)
        output = self.model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **apart)
        hidden = output.last_hidden_state.view(rows, tokens, -1)
        chosen = mask.bool()
        scores = self.model.score(hidden[chosen]).squeeze(-1).float()
        rewards = scores.new_zeros(rows) + 0.0 * hidden.sum().float()
        return rewards.masked_scatter(chosen.any(1), scores)
