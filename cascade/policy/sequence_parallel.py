"""Sequence parallelism: consecutive processes hold slices of the same rows, and exchange where layers mix tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.models.logprobs import LogProbModel
from cascade.models.mamba_documents import document_keywords, keep_documents_apart
from cascade.models.reward import RewardHead
from cascade.policy.mamba_heads import share_mamba_heads
from cascade.policy.sharded_rows import ShardedRow
from cascade.policy.sliceable_models import require_sliceable
from cascade.policy.ulysses_attention import NAME, use_ulysses
from cascade.policy.ulysses_exchange import whole_row

_PROVEN = 24  # tokens of a slice on which slices are compared with whole rows
_ALLOWED = {torch.float32: 1e-4}  # mean difference of log-probs, nats; in lower precision 0.15, as of other kernels


def log_prob_model(model: Any, config: PolicyConfig) -> LogProbModel:
    """The model with its LM head, on slices of rows where `policy.sequence_parallel` says so. Collective.

    Raises `EngineError` for a model that cannot be given slices.
    """
    if config.sequence_parallel == 1:
        return LogProbModel(model, config.log_prob_chunk)
    return ShardedLogProbModel(model, config, _share_layers(model, config.sequence_parallel))


def reward_head(model: Any, config: PolicyConfig) -> RewardHead:
    """The same for a reward model. Collective."""
    if config.sequence_parallel == 1:
        return RewardHead(model)
    return ShardedRewardHead(model, config, _share_layers(model, config.sequence_parallel))


@torch.no_grad()
def require_same_in_slices(log_probs: Callable[..., Any], module: LogProbModel) -> None:
    """Raises `EngineError` when slices have other log-probs than whole rows; a module without slices passes.

    An architecture may mix tokens, or count them, in a way that no layer's name tells. Two forward passes over two
    short rows do. Collective.

    Args:
        log_probs: the engine around `module`: (input_ids, position_ids, loss_mask) -> (log-probs, entropy).
    """
    if not isinstance(module, ShardedLogProbModel):
        return
    model, tokens = module.model, _PROVEN * module.group.size() - 1
    vocabulary = model.config.get_text_config().vocab_size
    rows = torch.randint(0, vocabulary, (2, tokens), generator=torch.Generator().manual_seed(0))
    at = torch.arange(tokens).repeat(2, 1)
    given = [tensor.to(parallel.device()) for tensor in (rows, at, at > 0)]
    training = model.training
    model.eval()  # dropout would differ between the passes
    sliced = log_probs(*given)[0]
    with module.in_one_piece():
        whole = log_probs(*given)[0]
    model.train(training)
    gap = float((sliced - whole).abs().sum() / given[2].sum())
    if not gap <= _ALLOWED.get(model.dtype, 0.15):
        raise EngineError(
            f"{type(model).__name__} computes other log-probs from slices than from whole rows: they differ by "
            f"{gap:.1e} nats on average.",
            "Set `policy.sequence_parallel=1`.",
        )


def _share_layers(model: Any, size: int) -> dist.ProcessGroup:
    """Has the layers of this one model that mix tokens exchange them; returns the group that does."""
    parallel.start()
    require_sliceable(model, size, parallel.world_size())
    use_ulysses(model)
    keep_documents_apart(model)
    share_mamba_heads(model, size)  # around what keeps documents apart
    return parallel.sharing_group(size)


class ShardedLogProbModel(LogProbModel):
    """What `LogProbModel` computes, from slices: every process of a group is given, and answers with, whole rows."""

    def __init__(self, model: Any, config: PolicyConfig, group: dist.ProcessGroup) -> None:
        super().__init__(model, config.log_prob_chunk)
        self.group, self.kernel, self.sliced = group, config.attention, True

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Every process computes whole rows meanwhile, as the architecture does by itself."""
        self.model.set_attn_implementation(self.kernel)
        self.sliced = False
        try:
            yield
        finally:
            self.model.set_attn_implementation(NAME)
            self.sliced = True

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        loss_mask: torch.Tensor,
        temperature: float = 1.0,
        candidates: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `LogProbModel`. Gradients are this process's part: their sum over the group is that of the loss."""
        if not self.sliced:
            return super().forward(input_ids, position_ids, loss_mask, temperature, candidates)
        row = ShardedRow.of(position_ids, self.group, self.kernel)
        hidden = _hidden_states(self.model, input_ids, row)
        # Whatever speaks of token t+1 is laid beside the hidden state at t that predicts it, and then cut.
        targets = input_ids.unsqueeze(-1) if candidates is None else candidates  # [B, T, K]
        chosen = row.own(loss_mask[:, 1:]).bool()
        values, entropies = self.head(hidden[chosen], row.own(targets[:, 1:])[chosen], temperature)
        log_probs = values.new_zeros(*chosen.shape, targets.shape[-1]) + 0.0 * hidden.sum().float()
        log_probs = log_probs.masked_scatter(chosen.unsqueeze(-1), values)  # [B, T/N, K]
        entropy = entropies.new_zeros(chosen.shape).masked_scatter(chosen, entropies)
        gathered = whole_row(torch.cat([log_probs, entropy.unsqueeze(-1)], -1), self.group)
        gathered = torch.nn.functional.pad(gathered[:, : input_ids.shape[1] - 1], (0, 0, 1, 0))  # [B, T, K + 1]
        log_probs, entropy = gathered[..., :-1], gathered[..., -1].detach()
        return (log_probs.squeeze(-1) if candidates is None else log_probs), entropy


class ShardedRewardHead(RewardHead):
    """What `RewardHead` computes, from slices: the process that has the scored token says the score."""

    def __init__(self, model: Any, config: PolicyConfig, group: dist.ProcessGroup) -> None:
        super().__init__(model)
        self.group, self.kernel = group, config.attention

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `RewardHead`. Gradients are this process's part: their sum over the group is that of the loss."""
        row = ShardedRow.of(position_ids, self.group, self.kernel)
        hidden = _hidden_states(self.model, input_ids, row)
        chosen = row.own(mask).bool()
        scores = self.model.score(hidden[chosen]).squeeze(-1).float()
        rewards = scores.new_zeros(len(mask)) + 0.0 * hidden.sum().float()
        rewards = rewards.masked_scatter(chosen.any(1), scores)  # [B], 0 but on one process
        return whole_row(rewards.unsqueeze(1), self.group).sum(1)


def _hidden_states(model: Any, input_ids: torch.Tensor, row: ShardedRow) -> torch.Tensor:
    """The backbone's last hidden states of this process's slice, [B, T/N, D], from whole rows [B, T]."""
    output = model.base_model(
        input_ids=row.own(input_ids),
        position_ids=row.own(row.position_ids),
        use_cache=False,
        sharded_row=row,
        **document_keywords(model, row.position_ids),
    )
    return output.last_hidden_state
