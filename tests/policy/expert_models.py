"""Tiny mixtures of experts for expert parallelism, and one process that trains them without DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cascade.models.experts import freeze_routers
from cascade.models.loading import build_model
from cascade.models.logprobs import LogProbModel
from cascade.policy.export import save_folder
from tests.policy.expert_ranks import COMPARED, DOCUMENTS, STAGE
from tests.tiny_models import KEYS, TOKENIZER, batches, policy_config, sequences, sft_stage

KINDS = ("qwen3_moe", "nemotron_h")
EXPERTS = 8
CHANGED: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": EXPERTS, "head_dim": 32},  # the smallest head that vLLM's attention on CPUs takes
    "nemotron_h": {
        "n_routed_experts": EXPERTS,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
    },
}


def write_experts(folder: Path, kind: str) -> Path:
    """A model of `kind` in `folder` whose routers use everything they have: groups, a correction bias, a scale."""
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    model = build_model(kind, {**KEYS[kind], **CHANGED[kind]}, 0, len(TOKENIZER), special)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
    save_folder(model, folder, TOKENIZER, {"identity": kind, "stage": "base", "step": 0}, None)
    return folder


@dataclass(frozen=True)
class OneProcess:
    """What plain PyTorch makes of the steps of `expert_ranks.py`."""

    losses: list[float]
    norms: list[float]  # before clipping
    moments: list[dict[str, torch.Tensor]]  # after every step
    weights: dict[str, torch.Tensor]  # after the last


def train_alone(folder: Path, kind: str, *, train_router: bool = False) -> OneProcess:
    """Trains with torch's own AdamW and clipping."""
    config, stage = policy_config(kind), sft_stage(**STAGE)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    frozen = [] if train_router else freeze_routers(model)
    module = LogProbModel(model, config.log_prob_chunk)
    trained = {name: own for name, own in model.named_parameters() if name not in frozen}
    optimizer = torch.optim.AdamW(
        [
            {"params": [own for own in trained.values() if own.dim() >= 2], "weight_decay": STAGE["weight_decay"]},
            {"params": [own for own in trained.values() if own.dim() < 2], "weight_decay": 0.0},
        ],
        lr=STAGE["learning_rate"],
        betas=(stage.adam_beta1, stage.adam_beta2),
        eps=stage.adam_epsilon,
    )
    done = OneProcess([], [], [], {})
    for step in range(COMPARED):
        optimizer.zero_grad()
        loss = 0.0
        for batch in batches(sequences(DOCUMENTS[step], seed=step), config):
            log_probs, _ = module(batch.input_ids, batch.position_ids, batch.loss_mask)
            part = -(log_probs * batch.token_weight).sum()
            part.backward()
            loss += part.item()
        done.losses.append(loss)
        done.norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)))
        optimizer.step()
        done.moments.append({name: optimizer.state[own]["exp_avg"].clone() for name, own in trained.items()})
    done.weights.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return done
