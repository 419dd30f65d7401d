"""Models small enough to train in a test, as the folders that Cascade loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cascade.config import PolicyConfig, SftStage
from cascade.data.characters import character_tokenizer
from cascade.data.packing import pack
from cascade.data.rendering import bundled_template
from cascade.models.loading import build_model
from cascade.policy.export import save_folder
from cascade.types import PackedBatch, TrainingSequence

TOKENIZER = character_tokenizer("0123456789+-= abcdefghijklmnopqrstuvwxyz", bundled_template("characters"))
ATTENTION = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
# A wide initialisation: sharp distributions, so that a mistake is far above rounding.
COMMON = {**ATTENTION, "intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.1}
KEYS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**COMMON, **EXPERTS, "num_hidden_layers": 2, "num_experts": 4, "norm_topk_prob": True},
    "llama": {**COMMON, "num_hidden_layers": 2, "tie_word_embeddings": True},
    "nemotron_h": {
        **COMMON,
        **EXPERTS,
        "hybrid_override_pattern": "ME*E",
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 16,
    },
}


def write_model(folder: Path, kind: str, seed: int = 0, **keys: Any) -> Path:
    """An untrained model of `kind` in `folder`, with the character tokenizer."""
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    model = build_model(kind, {**KEYS[kind], **keys}, seed, len(TOKENIZER), special)
    save_folder(model, folder, TOKENIZER, {"identity": f"{kind}{seed}", "stage": "base", "step": 0}, None)
    return folder


def policy_config(kind: str, **keys: Any) -> PolicyConfig:
    """fp32, in small rows; one document a row where the model carries a state along the sequence."""
    defaults = {"dtype": "fp32", "row_tokens": 48, "rows_per_micro_batch": 3, "packing": kind != "nemotron_h"}
    return PolicyConfig(**{**defaults, **keys})


def sft_stage(**keys: Any) -> SftStage:
    """The optimiser's settings."""
    return SftStage(**{"mix": {"math": 1.0}, "max_steps": 3, "learning_rate": 1e-3, **keys})


def sequences(count: int, seed: int = 0, vocabulary: int = len(TOKENIZER)) -> list[TrainingSequence]:
    """Random documents of 5 to 30 tokens, the last two thirds of each in the loss."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(5, 31, (1,), generator=generator))
        tokens = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        prompt = 1 + length // 3
        found.append(TrainingSequence(tuple(tokens), (0,) * prompt + (1,) * (length - prompt)))
    return found


def batches(
    documents: list[TrainingSequence], config: PolicyConfig, *, ranks: int = 1, rank: int = 0
) -> list[PackedBatch]:
    """The micro-batches of one step, every trained token weighing the same."""
    total = sum(document.loss_tokens for document in documents)
    return pack(
        documents,
        [1.0 / total] * len(documents),
        row_tokens=config.row_tokens,
        rows_per_batch=config.rows_per_micro_batch,
        ranks=ranks,
        rank=rank,
        pad_id=0,
        one_per_row=not config.packing,
    )


ROWS_OF_STEPS = (1, 7, 1, 5)
"""Documents of the steps that one and two processes are compared over; with one, the second process has no row."""
