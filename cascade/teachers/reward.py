"""A finished reward model in the training process: what it thinks of whole documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.data.scoring import whole_batches
from cascade.models.reward import RewardHead, load_reward_model
from cascade.types import TrainingSequence


class LocalRewardModel:
    """A frozen reward model. Every rank holds one and scores its own share."""

    def __init__(self, folder: Path, config: PolicyConfig, pad_id: int) -> None:
        """Loads the exported folder, in the dtype and with the kernels that it was trained with."""
        self.config = dataclasses.replace(config, packing=False)  # one document a row, as in training
        self.pad_id = pad_id
        model = load_reward_model(folder, self.config, pad_id).to(parallel.device())
        self.head = RewardHead(model.eval().requires_grad_(False))

    @torch.no_grad()
    def score(self, documents: Sequence[TrainingSequence]) -> list[float]:
        """The reward of every document at the one token that its mask marks, in the order given."""
        rewards = [0.0] * len(documents)
        longest = max((len(document.token_ids) for document in documents), default=1)
        rows = dataclasses.replace(self.config, row_tokens=longest)  # what nothing is trained on needs no more room
        for batch in whole_batches(documents, rows, self.pad_id):
            found = self.head(batch.input_ids, batch.position_ids, batch.loss_mask).tolist()
            for index, reward in zip(batch.sequence_index[:, 0].tolist(), found, strict=True):
                rewards[index] = reward
        return rewards
