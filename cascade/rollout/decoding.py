"""One pass of `transformers` generate over a batch: seeded, with a limit a row, stoppable after any token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cascade import parallel
from cascade.models.loading import has_recurrent_layers
from cascade.models.replay import RoutingRecorder, rows_of
from cascade.rollout.noise import gumbel_noise


@dataclass(frozen=True, slots=True)
class Draw:
    """A row of a batch, e.g. `Draw((3, 17, 9), key, 1, 11)`: one token of twelve is sampled, the last in `context`."""

    context: tuple[int, ...]  # [T], what the next token is sampled after
    key: int  # of its sampling noise
    position: int  # of the next token in its completion, from 0
    limit: int  # tokens to sample, at least 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens that a pass added to a row, the stop token included."""

    token_ids: list[int]
    log_probs: list[float]  # nats, at the sampling temperature
    finish_reason: Literal["stop", "length", "abort"]  # abort: the pass was stopped first
    routed_experts: torch.Tensor | None = None  # [N, L, K] of context and tokens but the last; None: not recorded


class SeededChoice(LogitsProcessor):
    """Turns greedy decoding into seeded sampling, and keeps the log-prob of what it makes the decoder choose."""

    def __init__(self, keys: torch.Tensor, positions: torch.Tensor, temperature: float) -> None:
        self.keys = keys  # [B] int64
        self.positions = positions  # [B] int64, of the first token to choose
        self.temperature = temperature
        self.log_probs: list[torch.Tensor] = []  # per token, [B] float32 nats

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """[B, V] logits -> [B, V] perturbed logits whose argmax is the sample."""
        logits = scores.float() / (self.temperature or 1.0)
        perturbed = logits
        if self.temperature:
            perturbed = logits + gumbel_noise(self.keys, self.positions + len(self.log_probs), logits.shape[1])
        chosen = perturbed.argmax(1, keepdim=True)
        self.log_probs.append(logits.log_softmax(1).gather(1, chosen).squeeze(1))
        return perturbed  # type: ignore[return-value]


class OwnLimit(StoppingCriteria):
    """Ends every row of a batch at its own number of tokens."""

    def __init__(self, limits: torch.Tensor, context_tokens: int) -> None:
        self.last = limits + context_tokens  # [B] int64

    def __call__(  # type: ignore[override]
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """[B]: which rows are full."""
        return self.last <= input_ids.shape[1]  # type: ignore[return-value]


class Interruption(StoppingCriteria):
    """Ends all rows after the token during which somebody wanted the model."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.interrupted = interrupted

    def __call__(  # type: ignore[override]
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """[B]: all or none."""
        return torch.full((len(input_ids),), self.interrupted(), device=input_ids.device)  # type: ignore[return-value]


@torch.no_grad()
def decode(
    model: Any,
    draws: Sequence[Draw],
    temperature: float,
    stop_ids: Sequence[int],
    interrupted: Callable[[], bool],
    recorder: RoutingRecorder | None = None,
) -> list[Drawn]:
    """Samples every row to its stop token or limit, greedily at temperature 0; at least one token a row.

    `interrupted` is asked after every token; once it says yes the pass ends, and rows that are not done say `abort`.
    `recorder`: of the model, where the experts that it chooses are wanted.
    """
    ids, mask = _left_padded([draw.context for draw in draws], stop_ids[0])
    limits = torch.tensor([draw.limit for draw in draws], device=ids.device)
    keys = torch.tensor([draw.key for draw in draws], device=ids.device)
    positions = torch.tensor([draw.position for draw in draws], device=ids.device)
    choice = SeededChoice(keys, positions, temperature)
    prefix = _shared_prefix(model, draws, ids, mask, recorder)
    output = model.generate(
        ids,
        attention_mask=mask,
        past_key_values=prefix.cache if prefix else None,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=int(limits.max()),
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
        ),
        logits_processor=LogitsProcessorList([choice]),
        stopping_criteria=StoppingCriteriaList([OwnLimit(limits, ids.shape[1]), Interruption(interrupted)]),
    )
    completions = output[:, ids.shape[1] :].tolist()
    log_probs = torch.stack(choice.log_probs, 1).tolist()
    drawn = [
        _drawn(completion[: draw.limit], row, draw.limit, stop_ids)
        for draw, completion, row in zip(draws, completions, log_probs, strict=True)
    ]
    if recorder is None:
        return drawn
    chosen = recorder.take(len(draws))
    if prefix and prefix.routed_experts is not None:
        chosen = torch.cat([prefix.routed_experts, chosen], 1)
    records = rows_of(chosen, [len(draw.context) for draw in draws], [len(one.token_ids) for one in drawn])
    return [replace(one, routed_experts=record) for one, record in zip(drawn, records, strict=True)]


def _drawn(tokens: list[int], log_probs: list[float], limit: int, stop_ids: Sequence[int]) -> Drawn:
    """What belongs to a row of the output: nothing behind its first stop token."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), None)
    kept = tokens[:end]
    unstopped = "length" if len(kept) == limit else "abort"
    return Drawn(kept, log_probs[: len(kept)], unstopped if end is None else "stop")


@dataclass(frozen=True)
class _Prefix:
    """What is computed of the contexts but their last tokens, a row each."""

    cache: DynamicCache
    routed_experts: torch.Tensor | None  # [B, T - 1, L, K]


def _shared_prefix(
    model: Any, draws: Sequence[Draw], ids: torch.Tensor, mask: torch.Tensor, recorder: RoutingRecorder | None
) -> _Prefix | None:
    """Keys and values of the contexts but their last tokens: computed once a context, repeated for its rows.

    None where every row has a context of its own, and for models whose layers carry a recurrent state.
    """
    first: dict[tuple[int, ...], int] = {}
    owners = [first.setdefault(draw.context, len(first)) for draw in draws]
    if len(first) == len(draws) or ids.shape[1] < 2 or has_recurrent_layers(model.config):
        return None
    rows = torch.tensor([owners.index(owner) for owner in range(len(first))], device=ids.device)  # [contexts]
    seen = mask[rows, :-1]
    cache = DynamicCache(config=model.config)
    model.base_model(
        input_ids=ids[rows, :-1],
        attention_mask=seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    each = torch.tensor(owners, device=ids.device)
    cache.batch_select_indices(each)
    return _Prefix(cache, recorder.take(len(rows))[each] if recorder else None)


def _left_padded(contexts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, [B, T] int64 each, every context at the end of its row."""
    longest = max(len(context) for context in contexts)
    ids = torch.tensor([[pad_id] * (longest - len(context)) + list(context) for context in contexts])
    mask = torch.tensor([[0] * (longest - len(context)) + [1] * len(context) for context in contexts])
    return ids.to(parallel.device()), mask.to(parallel.device())
