"""Experts without a gate for DeepSpeed's AutoEP.

They compute y = W_down f(W_up x), where AutoEP's own compute y = W_down (f(W_gate x) * W_up x). It knows experts
by three tensors. Here `w1` is W_up [E, I, H], `w2` is W_down [E, H, I], and `w3` is empty, [E, 0, H]: its checkpoints
ask for one.
"""

from __future__ import annotations

import torch
from deepspeed.moe import ep_experts
from torch import nn

RELU2 = "relu2"
NOT_GATED = {RELU2}
"""Names of activations that AutoEP calls with (gate, up) like all others, and that do not look at `up`."""


def relu2(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)^2, element by element (So et al. 2021, Primer)."""
    return torch.relu(x).square()


def register_relu2() -> None:
    """Makes `relu2` known to AutoEP, which holds it against the model's own `act_fn`. Idempotent."""
    if RELU2 not in ep_experts.EXPERT_ACTIVATIONS:
        ep_experts.register_expert_activation(RELU2, lambda gate, up, alpha, limit: relu2(gate), gate_fn=relu2)


def without_gate(experts: torch.Tensor) -> torch.Tensor:
    """The empty `w3` [E, 0, H] of experts whose `w1` is this [E, I, H]."""
    return experts.new_empty(experts.shape[0], 0, experts.shape[2])


class NonGatedExperts(ep_experts.GroupedExperts):
    """Takes the place of other experts of AutoEP, with their parameters and their choice of kernels."""

    def __init__(self, experts: ep_experts.GroupedExperts) -> None:
        nn.Module.__init__(self)  # not the one above, which makes parameters
        self.w1, self.w2, self.w3 = experts.w1, experts.w2, experts.w3
        self.num_experts, self.activation = experts.num_experts, experts.activation
        self.use_triton_grouped_mm, self.use_grouped_mm = experts.use_triton_grouped_mm, experts.use_grouped_mm

    def forward(self, x: torch.Tensor, num_tokens_per_expert: torch.Tensor) -> torch.Tensor:
        """x [T, H], sorted by expert, each expert's rows padded as its kernel wants; [T, H].

        Args:
            num_tokens_per_expert: [E], the padded counts; rows behind their sum are padding and come back as zeros.
        """
        if not (self.use_grouped_mm or self.use_triton_grouped_mm):
            return self._one_by_one(x, num_tokens_per_expert.tolist())
        ends = torch.cumsum(num_tokens_per_expert, dim=0, dtype=torch.int32)
        inner = relu2(self._grouped(x, self.w1.to(x.dtype), ends))
        return self._grouped(inner, self.w2.to(x.dtype), ends).type_as(x)

    def _grouped(self, x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """x [T, in] by weight [E, out, in] of each row's expert: [T, out]."""
        if self.use_triton_grouped_mm:
            from deepspeed.ops.triton_ops.group_gemm_triton import group_gemm_triton

            return group_gemm_triton(x, weight, ends, trans_b=True)
        return torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)  # pyright: ignore[reportPrivateImportUsage]

    def _one_by_one(self, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
        rows = x[: sum(counts)].split(counts)
        done = [
            relu2(own @ up.to(x.dtype).t()) @ down.to(x.dtype).t()
            for own, up, down in zip(rows, self.w1, self.w2, strict=True)
        ]
        return torch.cat([*done, x.new_zeros(len(x) - sum(counts), x.shape[1])])
