"""What the tests of served engines share: tiny models, policies that hold them, and what they really think."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cascade.config import RolloutConfig
from cascade.models.loading import load_model
from cascade.types import Prompt, Rollout, Row, TrainingSequence
from tests.tiny_models import policy_config, write_model

KIND = "qwen3_moe"


def model(root: Path, seed: int) -> Path:
    """A tiny mixture of experts with tied embeddings, in a head size that vLLM's CPU attention takes."""
    folder = root / f"seed{seed}"
    return folder if folder.exists() else write_model(folder, KIND, seed, head_dim=32, tie_word_embeddings=True)


def served_config(**keys: Any) -> RolloutConfig:
    """Two replicas over shm, in small buckets, so that there are several."""
    defaults: dict[str, Any] = {"engine": "vllm_server", "replicas": 2, "start_timeout_s": 240.0}
    return RolloutConfig(**{**defaults, **keys})


class Weights:
    """A policy as far as publishing needs one: the weights of a folder, names as in `transformers`."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder, policy_config(KIND)).eval()

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `ports.Policy`."""
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    @torch.no_grad()
    def log_probs(self, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """Of every token after those before it; 0 for the first."""
        logits = self.model(torch.tensor([token_ids])).logits[0].float() / temperature
        chosen = logits.log_softmax(1)[:-1].gather(1, torch.tensor(token_ids)[1:, None]).squeeze(1)
        return [0.0, *chosen.tolist()]


def policy_of(folder: Path) -> Any:
    """`Weights` where a whole policy is asked for."""
    return Weights(folder)


def gap(scores: Sequence[Sequence[float]], sequences: Sequence[TrainingSequence], truth: Weights, at: float) -> float:
    """The largest |log p - log p of `truth`| over the loss tokens, at temperature `at`."""
    gaps = [
        abs(score - true)
        for found, sequence in zip(scores, sequences, strict=True)
        for score, true, wanted in zip(found, truth.log_probs(sequence.token_ids, at), sequence.loss_mask, strict=True)
        if wanted
    ]
    return max(gaps)


def sampled_gap(rollouts: Sequence[Rollout], truth: Weights, temperature: float) -> float:
    """The largest |log p - log p of `truth`| over the sampled tokens of all rollouts."""
    worst = 0.0
    for rollout in rollouts:
        before = len(rollout.prompt.token_ids)
        true = truth.log_probs(rollout.prompt.token_ids + rollout.token_ids, temperature)[before:]
        worst = max([worst, *(abs(a - b) for a, b in zip(rollout.sampler_log_probs, true, strict=True))])
    return worst


def long_prompts(count: int) -> list[Prompt]:
    """Prompts whose rollouts seldom end early."""
    return [Prompt(Row(f"long{i}", "math", "addition", {}), (3 + i % 30, 4, 5)) for i in range(count)]


def names(rollouts: Sequence[Rollout]) -> list[tuple[str, int]]:
    """Which prompt and sample each is."""
    return [(rollout.prompt.row.id, rollout.index) for rollout in rollouts]
