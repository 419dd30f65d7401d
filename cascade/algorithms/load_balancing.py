"""How evenly a layer's experts are loaded, and the two ways to even them out: a loss, and steps of a selection bias.

E experts, K of them chosen a token, N tokens.
"""

from __future__ import annotations

import torch


def balance_loss(
    scores: torch.Tensor, choices: torch.Tensor, documents: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The load-balancing loss of one layer: sum over documents d of w_d sum over experts i of f_di P_di, a scalar.

    f_di = E / (K T_d) times the tokens of d that chose i, without gradient, and P_di the mean over the T_d tokens of d
    of i's share in the scores: Switch Transformer (Fedus et al. 2021), eqs. 4 to 6, for K experts a token and for each
    document alone, as DeepSeek-V3 does (eqs. 17 to 20). An even load gives 1 where the w_d add up to 1. As no document
    is cut, the sum over micro-batches and processes is the same however documents are packed and dealt.

    Args:
        scores: [N, E], what the router thinks of every expert, not negative: softmax or sigmoid.
        choices: [N, K] int64, the experts that every token went to.
        documents: [N] int64, which document a token belongs to; -1: padding, which takes no part.
        weights: [N] float32, of every token; they add up to w_d over those of d.
    """
    real = documents >= 0
    known, at = torch.unique(documents, return_inverse=True)  # at [N]: which of the D known documents
    shape = (len(known), scores.shape[1])  # [D, E]
    used = real.float()
    tokens = torch.zeros(len(known), device=scores.device).index_add(0, at, used).clamp(min=1.0)  # T_d
    share = scores.float() / scores.float().sum(1, keepdim=True).clamp(min=1e-20)
    mean_share = share.new_zeros(shape).index_add(0, at, share * used.unsqueeze(1)) / tokens.unsqueeze(1)  # P
    hits = share.new_zeros(len(share), scores.shape[1]).scatter_add(1, choices, used.unsqueeze(1).expand(choices.shape))
    load = share.new_zeros(shape).index_add(0, at, hits) * (scores.shape[1] / choices.shape[1]) / tokens.unsqueeze(1)
    document_weight = torch.zeros(len(known), device=scores.device).index_add(0, at, weights.float() * used)
    return ((load.detach() * mean_share).sum(1) * document_weight).sum()


def bias_steps(loads: torch.Tensor, rate: float) -> torch.Tensor:
    """What every expert's selection bias moves by: `rate` up where its load is below the layer's mean, down above.

    Balancing without an auxiliary loss (Wang et al. 2024, algorithm 1; DeepSeek-V3, section 2.1.2). `loads`: [L, E]
    tokens of every expert in the whole batch. Returns [L, E] float32.
    """
    exact = loads.double()
    return (rate * (exact.mean(1, keepdim=True) - exact).sign()).float()


def max_violation(loads: torch.Tensor) -> torch.Tensor:
    """The largest load of a layer over its mean load, 1 for an even one and E / K at worst. [L, E] -> [L] float64."""
    exact = loads.double()
    return exact.amax(1) / exact.mean(1).clamp(min=1e-12)


def unused_share(loads: torch.Tensor) -> torch.Tensor:
    """The share of a layer's experts that no token went to. [L, E] -> [L] float64."""
    return (loads == 0).double().mean(1)
