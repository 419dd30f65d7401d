"""The embedded engine on tiny models, and what to ask of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cascade.config import RolloutConfig
from cascade.rollout.hf import HfRolloutEngine
from cascade.types import Prompt, Rollout, Row
from tests.tiny_models import TOKENIZER, policy_config

KINDS = ("qwen3_moe", "nemotron_h", "llama")


class Engine(HfRolloutEngine):
    """With one limit for all prompts."""

    def sample(
        self, asked: list[Prompt], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Rollout]]:
        return self.generate(asked, samples, temperature, [max_tokens] * len(asked), seed)


def engine(folder: Path, kind: str, batch_sequences: int = 64, **keys: Any) -> Engine:
    """With the weights of `folder`; `keys` are the policy's."""
    made = Engine(policy_config(kind, **keys), RolloutConfig(batch_sequences=batch_sequences), TOKENIZER)
    made.load(folder)
    return made


def prompts(count: int = 9) -> list[Prompt]:
    """Of 2 to 14 tokens."""
    rng = random.Random(0)
    return [
        Prompt(Row(f"row{i}", "math", "addition", {}), tuple(rng.randrange(2, 40) for _ in range(2 + (5 * i) % 13)))
        for i in range(count)
    ]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def by_name(groups: list[list[Rollout]]) -> dict[tuple[str, int], Rollout]:
    return {(rollout.prompt.row.id, rollout.index): rollout for rollout in flat(groups)}
