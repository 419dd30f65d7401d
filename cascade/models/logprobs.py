"""Log-probabilities of chosen tokens, in chunks over tokens, so that `[T, V]` logits never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cascade.errors import EngineError


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(h W^T / temperature) at K ids a token, with the entropy of the same distribution.

    Saves hidden states, weight and ids only; the backward pass recomputes the logits of one chunk at a time:
    d logits = (sum_k g_k onehot(id_k) - (sum_k g_k) softmax) / temperature. Softmax and sums are in float32.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [N, D], weight [V, D], ids [N, K] -> log-probs [N, K] and entropy [N] (no gradient), float32."""
        log_probs = torch.empty(ids.shape, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(ids), chunk):
            part = slice(start, start + chunk)
            all_log_probs = _log_softmax(hidden[part], weight, temperature)  # [chunk, V]
            log_probs[part] = all_log_probs.gather(1, ids[part])
            entropy[part] = -(all_log_probs.exp() * all_log_probs).sum(1)
        ctx.save_for_backward(hidden, weight, ids)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs: torch.Tensor, _grad_entropy: torch.Tensor) -> Any:  # type: ignore[override]
        hidden, weight, ids = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(ids), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            grads = grad_log_probs[part].float()  # [chunk, K]
            logit_grads = _log_softmax(hidden[part], weight, ctx.temperature).exp_()  # [chunk, V]
            logit_grads.mul_(-grads.sum(1, keepdim=True)).scatter_add_(1, ids[part], grads)
            logit_grads = logit_grads.div_(ctx.temperature).to(hidden.dtype)
            grad_hidden[part] = logit_grads @ weight
            grad_weight += (logit_grads.t() @ hidden[part]).float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def _log_softmax(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax((hidden @ weight.t()).float().div_(temperature), dim=-1)


class LogProbHead(nn.Module):
    """The LM head as a module of its own that shares the head's weight, so that ZeRO-3 gathers it when it is needed."""

    def __init__(self, lm_head: nn.Module, chunk: int) -> None:
        super().__init__()
        if getattr(lm_head, "bias", None) is not None:
            raise EngineError("The model's LM head has a bias.", "Use a model without one; it is not supported.")
        self.weight: torch.Tensor = lm_head.weight  # type: ignore[assignment]
        self.chunk = chunk

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [N, D], ids [N, K] -> log-probs [N, K], entropy [N]; float32 nats."""
        return ChunkedLogProbs.apply(hidden, self.weight, ids, temperature, self.chunk)

    @torch.no_grad()
    def top_k(self, hidden: torch.Tensor, k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [N, D] -> the k likeliest ids and their log-probs, [N, k] each."""
        parts = [_log_softmax(part, self.weight, temperature).topk(k, dim=-1) for part in hidden.split(self.chunk)]
        return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


class LogProbModel(nn.Module):
    """A causal language model that answers with log-probabilities of given tokens instead of logits."""

    def __init__(self, model: Any, chunk: int) -> None:
        super().__init__()
        for scale in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(model.config, scale, None) not in (None, 1, 1.0):
                raise EngineError(
                    f"{type(model).__name__} transforms its logits (`{scale}`), which is not supported.",
                    "Choose a model whose logits are the LM head's output.",
                )
        self.model = model
        self.head = LogProbHead(model.get_output_embeddings(), chunk)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        loss_mask: torch.Tensor,
        temperature: float = 1.0,
        candidates: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi(token t | tokens before t) where the mask is 1, and 0 elsewhere.

        Only hidden states of masked tokens meet the LM head. A batch without a masked token still touches every
        parameter, so that all ranks take part in the same collectives.

        Args:
            input_ids, position_ids: [B, T] int64. No attention mask: documents are told apart by their positions.
            loss_mask: [B, T].
            candidates: [B, T, K] ids to score instead of `input_ids`.

        Returns:
            log-probs [B, T], or [B, T, K] with candidates, and entropy [B, T] without gradient; float32 nats.
        """
        hidden = self.hidden_states(input_ids, position_ids)
        chosen = loss_mask[:, 1:].bool()  # the hidden state at t-1 predicts token t
        targets = input_ids.unsqueeze(-1) if candidates is None else candidates  # [B, T, K]
        values, entropies = self.head(hidden[:, :-1][chosen], targets[:, 1:][chosen], temperature)
        log_probs = values.new_zeros(targets.shape) + 0.0 * hidden.sum().float()
        at = torch.nn.functional.pad(chosen, (1, 0))  # [B, T]
        log_probs = log_probs.masked_scatter(at.unsqueeze(-1), values)
        entropy = entropies.new_zeros(input_ids.shape).masked_scatter(at, entropies)
        return (log_probs.squeeze(-1) if candidates is None else log_probs), entropy

    def hidden_states(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """The backbone's last hidden states, [B, T, D].

        transformers tells packed documents apart by their positions only without a mask and without a cache. Its
        flash-attention path does so for a batch of one only, so there the rows are laid end to end.
        """
        rows, tokens = input_ids.shape
        if str(self.model.config._attn_implementation).startswith("flash"):
            input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
        output = self.model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        return output.last_hidden_state.view(rows, tokens, -1)
