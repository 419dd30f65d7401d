"""Models small enough for a test, and policies that hold them without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, NemotronHConfig, PretrainedConfig, Qwen3MoeConfig

from cascade.config import MopdStage, RlStage, SftStage
from cascade.models.logprobs import LogProbModel
from cascade.objectives import Sums, micro_batch_loss
from cascade.types import PackedBatch

VOCABULARY = 29
Gradients = dict[str, torch.Tensor]


def llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **more,
    )


def tied_llama() -> LlamaConfig:
    return llama(tie_word_embeddings=True)


def qwen3_moe() -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
    )


def nemotron_h() -> NemotronHConfig:
    return NemotronHConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        hybrid_override_pattern="ME*E",
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=2,
        chunk_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
    )


def build(config: PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    """The same model for the same seed, with an initialisation wide enough that its predictions are not uniform."""
    config.initializer_range = 0.2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


class LocalPolicy:
    """The part of `ports.Policy` that computes a loss, around a plain module."""

    def __init__(self, model: Any, chunk: int = 7) -> None:
        self.model = model
        self.module = LogProbModel(model, chunk)

    def log_probs(
        self, batch: PackedBatch, temperature: float = 1.0, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.module(batch.input_ids, batch.position_ids, batch.loss_mask, temperature, candidates)

    def gradients(self) -> Gradients:
        """The gradient of every parameter; asserts that each took part in the backward pass."""
        missing = [name for name, parameter in self.model.named_parameters() if parameter.grad is None]
        assert not missing
        return {name: parameter.grad.clone() for name, parameter in self.model.named_parameters()}


class TablePolicy:
    """softmax(theta) whatever came before: a policy whose gradients can be written down."""

    def __init__(self, theta: Sequence[float]) -> None:
        self.theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)  # [V]

    def log_probs(
        self, batch: PackedBatch, temperature: float = 1.0, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.log_softmax(self.theta / temperature, -1)
        mask = batch.loss_mask.to(table)
        entropy = -(table.exp() * table).sum().detach() * mask
        if candidates is not None:
            return table[candidates] * mask.unsqueeze(-1), entropy
        return table[batch.input_ids] * mask, entropy


def run(
    policy: LocalPolicy, batches: Sequence[PackedBatch], stage: SftStage | RlStage | MopdStage
) -> tuple[float, Gradients, Mapping[str, float]]:
    """Loss, gradients and metric sums added up over micro-batches, as a step adds them up."""
    policy.model.zero_grad(set_to_none=True)
    sums: Sums = {}
    total = 0.0
    for batch in batches:
        loss, here = micro_batch_loss(policy, batch, stage)  # type: ignore[arg-type]
        loss.backward()
        total += float(loss.detach().double())
        sums = {name: sums.get(name, torch.tensor(0.0)).double() + value.double() for name, value in here.items()}
    return total, policy.gradients(), {name: float(value) for name, value in sums.items()}
