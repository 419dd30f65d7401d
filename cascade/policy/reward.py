"""The reward model in training, in the engine that trains the policy."""

from __future__ import annotations

from pathlib import Path

import torch

from cascade.config import PolicyConfig, StageBase
from cascade.models.reward import load_reward_model
from cascade.policy.deepspeed import DeepSpeedEngine, loaded
from cascade.policy.expert_parallel import check_folder
from cascade.policy.sequence_parallel import reward_head
from cascade.types import PackedBatch


class DeepSpeedRewardModel(DeepSpeedEngine):
    """Implements `ports.RewardModel`. Every rank constructs it and makes the same calls in the same order."""

    def __init__(
        self, path: str | Path, config: PolicyConfig, stage: StageBase, *, freeze_router: bool, pad_id: int, seed: int
    ) -> None:
        """Takes over the backbone of the language model at `path`; `seed` draws the head.

        Raises `EngineError` for an architecture without a scalar head, and for what cannot be trained rightly.
        """
        check_folder(path, config)
        model = loaded(lambda: load_reward_model(path, config, pad_id, seed), config)
        super().__init__(model, reward_head(model, config), config, stage, freeze_router=freeze_router)

    def rewards(self, batch: PackedBatch) -> torch.Tensor:
        """See `ports.RewardModel`."""
        with self.experts.forward_pass(batch):
            return self.engine(batch.input_ids, batch.position_ids, batch.loss_mask)
