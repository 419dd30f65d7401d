"""Log-probabilities of chosen tokens, in chunks over tokens, so that `[T, V]` logits never exist at once.

Letters: N tokens, V entries of the vocabulary, D dimensions of a hidden state, K ids scored a token, k likeliest ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from cascade.models.logit_transform import LogitTransform, logit_transform
from cascade.models.mamba_documents import document_keywords, keep_documents_apart

_PLAIN = LogitTransform()
_BLOCK = 8192  # entries of the vocabulary whose low-precision weight gradient exists at once


class TokenScores(NamedTuple):
    """What one pass over the logits tells of N tokens; nats, float32 (float64 for float64 inputs)."""

    log_probs: torch.Tensor  # [N, K]
    entropy: torch.Tensor  # [N], without gradient
    top_ids: torch.Tensor  # [N, k], the likeliest first
    top_log_probs: torch.Tensor  # [N, k], without gradient


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(f(h W^T) / temperature) at K ids a token, with entropy and top-k of the same distribution.

    Saved are hidden states, weight, ids and one log-sum-exp a token. The backward pass makes the logits of a chunk once
    more: d logits = (sum_k g_k onehot(id_k) - (sum_k g_k) softmax) / temperature. Making the gradients in the forward
    pass, as fused cross-entropies do, would spare that product but needs g there: here g depends on the log-probs
    themselves (clipped ratios, divergences from a teacher), and keeping softmax instead is what chunks are to avoid.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        ids: torch.Tensor,
        temperature: float,
        chunk: int,
        top_k: int = 0,
        transform: LogitTransform = _PLAIN,
    ) -> tuple[torch.Tensor, ...]:
        """hidden [N, D], weight [V, D], ids [N, K] -> the fields of `TokenScores`."""
        logits_of = _Logits(hidden, weight, temperature, chunk, transform)
        precise = logits_of.precise
        log_probs = hidden.new_empty(ids.shape, dtype=precise)
        log_sums, entropy = (hidden.new_empty(len(ids), dtype=precise) for _ in range(2))
        top_ids, top_log_probs = (hidden.new_empty(len(ids), top_k, dtype=kind) for kind in (torch.int64, precise))
        exponentials = logits_of.buffer()
        for start in range(0, len(ids), chunk):
            part = slice(start, start + chunk)
            logits = logits_of(part)  # [chunk, V]
            highest = logits.amax(1, keepdim=True)
            chosen = logits.gather(1, ids[part])
            if top_k:
                top_log_probs[part], top_ids[part] = logits.topk(top_k, dim=1)
            softmax = torch.exp(logits.sub_(highest), out=exponentials[: len(logits)])  # times `total`
            total = softmax.sum(1, keepdim=True)
            log_sum = total.log() + highest  # [chunk, 1]
            log_probs[part] = chosen - log_sum
            top_log_probs[part] -= log_sum
            entropy[part] = (total.log() - softmax.mul_(logits).sum(1, keepdim=True) / total).squeeze(1)
            log_sums[part] = log_sum.squeeze(1)
        ctx.save_for_backward(hidden, weight, ids, log_sums)
        ctx.logits_of = temperature, chunk, transform
        ctx.mark_non_differentiable(entropy, top_ids, top_log_probs)
        return log_probs, entropy, top_ids, top_log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: torch.Tensor, *_others: torch.Tensor) -> Any:  # type: ignore[override]
        hidden, weight, ids, log_sums = ctx.saved_tensors
        temperature, chunk, transform = ctx.logits_of
        logits_of = _Logits(hidden, weight, temperature, chunk, transform)
        to_hidden, to_weight = ctx.needs_input_grad[:2]  # an LM head beside adapters is frozen
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=logits_of.precise) if to_weight else None
        for start in range(0, len(ids), chunk):
            part = slice(start, start + chunk)
            grads = grad_log_probs[part].to(logits_of.precise)  # [chunk, K]
            logits = logits_of(part)
            slope = transform.slope(logits * temperature) if transform.cap else transform.scale
            softmax = logits.sub_(log_sums[part].unsqueeze(1)).exp_()
            grad_logits = softmax.mul_(-grads.sum(1, keepdim=True)).scatter_add_(1, ids[part], grads)
            grad_logits = logits_of.lowered(grad_logits.mul_(slope).div_(temperature))  # [chunk, V]
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _accumulate(grad_weight, grad_logits, hidden[part])
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), *[None] * 5


class _Logits:
    """f(h W^T) / temperature of one chunk after the other, each overwriting the one before."""

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, temperature: float, chunk: int, transform: LogitTransform
    ) -> None:
        self.hidden, self.weight, self.temperature, self.transform = hidden, weight, temperature, transform
        self.precise = torch.promote_types(hidden.dtype, torch.float32)
        self.rows = min(chunk, len(hidden))
        self._products = hidden.new_empty(self.rows, len(weight))
        self._logits = self._products if hidden.dtype == self.precise else self.buffer()

    def buffer(self) -> torch.Tensor:
        """Room for the logits of a chunk, [chunk, V] in float32 or better."""
        return torch.empty(self.rows, len(self.weight), dtype=self.precise, device=self.hidden.device)

    def __call__(self, part: slice) -> torch.Tensor:
        hidden = self.hidden[part]
        products = torch.mm(hidden, self.weight.t(), out=self._products[: len(hidden)])
        logits = products if self._logits is self._products else self._logits[: len(hidden)].copy_(products)
        return self.transform.apply_(logits).div_(self.temperature)

    def lowered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits, or what has their shape, in the precision of the hidden states; overwritten by the next chunk."""
        return logits if self._logits is self._products else self._products[: len(logits)].copy_(logits)


def _accumulate(total: torch.Tensor, grad_logits: torch.Tensor, hidden: torch.Tensor) -> None:
    """total [V, D] += grad_logits [n, V]^T hidden [n, D]. The sum is in float32, without a second [V, D] in it."""
    if total.dtype == hidden.dtype:
        total.addmm_(grad_logits.t(), hidden)
        return
    for start in range(0, len(total), _BLOCK):
        block = slice(start, start + _BLOCK)
        total[block] += grad_logits[:, block].t() @ hidden


class LogProbHead(nn.Module):
    """The LM head as a module of its own that shares the head's weight, so that ZeRO-3 gathers it when it is needed."""

    def __init__(self, lm_head: nn.Module, chunk: int, transform: LogitTransform = _PLAIN) -> None:
        super().__init__()
        self.weight: torch.Tensor = lm_head.weight  # type: ignore[assignment]
        self.chunk = chunk
        self.transform = transform

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [N, D], ids [N, K] -> log-probs [N, K], entropy [N]; float32 nats."""
        return self.scores(hidden, ids, temperature)[:2]

    def scores(self, hidden: torch.Tensor, ids: torch.Tensor, temperature: float, top_k: int = 0) -> TokenScores:
        """hidden [N, D], ids [N, K] -> log-probs, entropy and the `top_k` likeliest tokens, all of one pass."""
        return TokenScores(
            *ChunkedLogProbs.apply(hidden, self.weight, ids, temperature, self.chunk, top_k, self.transform)
        )

    @torch.no_grad()
    def top_k(self, hidden: torch.Tensor, k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [N, D] -> the k likeliest ids and their log-probs, [N, k] each."""
        nothing = torch.zeros(len(hidden), 0, dtype=torch.int64, device=hidden.device)
        return self.scores(hidden, nothing, temperature, k)[2:]


class LogProbModel(nn.Module):
    """A causal language model that answers with log-probabilities of given tokens instead of logits."""

    def __init__(self, model: Any, chunk: int) -> None:
        super().__init__()
        keep_documents_apart(model)
        self.model = model
        self.head = LogProbHead(model.get_output_embeddings(), chunk, logit_transform(model))

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

        transformers tells packed documents apart by their positions only without a mask and without a cache; Mamba
        layers are told by keywords. Its flash-attention path does so for a batch of one only, so there the rows are
        laid end to end.
        """
        rows, tokens = input_ids.shape
        if str(self.model.config._attn_implementation).startswith("flash"):
            input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
        apart = document_keywords(self.model, position_ids)
        output = self.model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **apart)
        return output.last_hidden_state.view(rows, tokens, -1)
