"""The embedded rollout engine: `transformers` generate on an inference copy inside the training process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from cascade.config import PolicyConfig
from cascade.data.chat import completion_text
from cascade.errors import EngineError
from cascade.models.loading import has_recurrent_layers, load_model
from cascade.models.stop_tokens import stop_ids
from cascade.ports import Policy
from cascade.rollout.noise import gumbel_noise, rollout_key
from cascade.types import Prompt, Rollout, VersionSpan


class SeededChoice(LogitsProcessor):
    """Turns greedy decoding into seeded sampling, and keeps the log-prob of what it makes the decoder choose."""

    def __init__(self, keys: torch.Tensor, temperature: float) -> None:
        self.keys = keys  # [B] int64
        self.temperature = temperature
        self.log_probs: list[torch.Tensor] = []  # per position, [B] float32 nats

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """[B, V] logits -> [B, V] perturbed logits whose argmax is the sample."""
        logits = scores.float() / (self.temperature or 1.0)
        perturbed = logits
        if self.temperature:
            perturbed = logits + gumbel_noise(self.keys, len(self.log_probs), logits.shape[1])
        chosen = perturbed.argmax(1, keepdim=True)
        self.log_probs.append(logits.log_softmax(1).gather(1, chosen).squeeze(1))
        return perturbed  # type: ignore[return-value]


class OwnLimit(StoppingCriteria):
    """Ends every row of a batch at its own number of tokens."""

    def __init__(self, limits: torch.Tensor, prompt_tokens: int) -> None:
        self.last = limits + prompt_tokens  # [B] int64

    def __call__(  # type: ignore[override]
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """[B]: which rows are full."""
        return self.last <= input_ids.shape[1]  # type: ignore[return-value]


class HfRolloutEngine:
    """Implements `ports.RolloutEngine`."""

    def __init__(self, path: str | Path, config: PolicyConfig, tokenizer: Any, *, batch_sequences: int) -> None:
        """Loads the checkpoint at `path`; its weights are version 0 until something is published."""
        self.model = load_model(path, config).to(parallel.device()).eval()
        self.tokenizer = tokenizer
        self.batch_sequences = batch_sequences
        self.stop_ids = stop_ids(self.model, tokenizer)
        self.model.generation_config = GenerationConfig()  # else the folder's repetition penalty would act, unseen
        self.version = 0

    @torch.no_grad()
    def publish(self, policy: Policy, version: int) -> None:
        """See `ports.RolloutEngine`. Raises `EngineError` unless every tensor is published exactly once."""
        own = self.model.state_dict(keep_vars=True)
        waiting = {tensor.data_ptr() for tensor in own.values()}  # by storage: tied tensors are published once
        for name, tensor in policy.weights():
            if name not in own:
                raise EngineError(f"The policy publishes {name}, which the rollout engine lacks.", "Check both models.")
            if own[name].shape != tensor.shape:  # `copy_` would broadcast
                shapes = f"{tuple(tensor.shape)}, the rollout engine's is {tuple(own[name].shape)}"
                raise EngineError(f"The policy's {name} is {shapes}.", "Check both models.")
            own[name].copy_(tensor)
            waiting.discard(own[name].data_ptr())
        if waiting:
            left = [name for name, tensor in own.items() if tensor.data_ptr() in waiting]
            raise EngineError(f"The policy did not publish {', '.join(left[:3])}.", "Check both models.")
        self.version = version

    def generate(
        self, prompts: Sequence[Prompt], samples: int, temperature: float, max_tokens: Sequence[int], seed: int
    ) -> list[list[Rollout]]:
        """See `ports.RolloutEngine`."""
        wanted = [
            (prompt, sample, limit)
            for prompt, limit in zip(prompts, max_tokens, strict=True)
            for sample in range(samples)
        ]
        # Alike in limit and length: short answers do not wait for long ones, and there is little left padding.
        alike = sorted(range(len(wanted)), key=lambda i: (wanted[i][2], len(wanted[i][0].token_ids)))
        done: dict[int, Rollout] = {}
        for start in range(0, len(wanted), self.batch_sequences):
            chosen = alike[start : start + self.batch_sequences]
            rollouts = self._generate_batch([wanted[i] for i in chosen], temperature, seed)
            done.update(zip(chosen, rollouts, strict=True))
        ordered = iter(done[i] for i in range(len(wanted)))
        return [list(itertools.islice(ordered, samples)) for _ in prompts]

    @torch.no_grad()
    def _generate_batch(
        self, wanted: Sequence[tuple[Prompt, int, int]], temperature: float, seed: int
    ) -> list[Rollout]:
        keys = torch.tensor([rollout_key(seed, prompt.row.id, sample) for prompt, sample, _ in wanted])
        choice = SeededChoice(keys.to(parallel.device()), temperature)
        limits = torch.tensor([limit for _, _, limit in wanted], device=parallel.device())
        ids, mask = self._left_padded([prompt.token_ids for prompt, _, _ in wanted])
        config = GenerationConfig(
            do_sample=False, max_new_tokens=int(limits.max()), eos_token_id=self.stop_ids, pad_token_id=self.stop_ids[0]
        )
        output = self.model.generate(
            ids,
            attention_mask=mask,
            past_key_values=self._shared_prefix(wanted, ids, mask),
            generation_config=config,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([OwnLimit(limits, ids.shape[1])]),
        )
        completions = output[:, ids.shape[1] :].tolist()
        log_probs = torch.stack(choice.log_probs, 1).tolist()
        return [
            self._rollout(prompt, sample, completion[:limit], row)
            for (prompt, sample, limit), completion, row in zip(wanted, completions, log_probs, strict=True)
        ]

    def _shared_prefix(
        self, wanted: Sequence[tuple[Prompt, int, int]], ids: torch.Tensor, mask: torch.Tensor
    ) -> DynamicCache | None:
        """Keys and values of the prompts but their last tokens: computed once a prompt, repeated for its samples.

        None where every row has a prompt of its own, and for models whose layers carry a recurrent state.
        """
        first: dict[str, int] = {}
        owners = [first.setdefault(prompt.row.id, len(first)) for prompt, _, _ in wanted]
        if len(first) == len(wanted) or has_recurrent_layers(self.model.config):
            return None
        rows = torch.tensor([owners.index(owner) for owner in range(len(first))], device=ids.device)  # [prompts]
        seen = mask[rows, :-1]
        cache = DynamicCache(config=self.model.config)
        self.model.base_model(
            input_ids=ids[rows, :-1],
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_select_indices(torch.tensor(owners, device=ids.device))
        return cache

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self.stop_ids[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids.to(parallel.device()), mask.to(parallel.device())

    def _rollout(self, prompt: Prompt, sample: int, completion: list[int], log_probs: list[float]) -> Rollout:
        end = next((i + 1 for i, token in enumerate(completion) if token in self.stop_ids), None)
        kept = completion[:end]
        return Rollout(
            prompt=prompt,
            index=sample,
            token_ids=tuple(kept),
            sampler_log_probs=tuple(log_probs[: len(kept)]),
            versions=(VersionSpan(self.version, len(kept)),),
            finish_reason="stop" if end is not None else "length",
            text=completion_text(self.tokenizer, kept),
        )
