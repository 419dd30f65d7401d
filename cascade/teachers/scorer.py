"""Teachers scored in the training process, as many of them in memory as the recipe has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cascade import parallel
from cascade.config import PolicyConfig
from cascade.data.scoring import score_sequences, whole_batches
from cascade.errors import EngineError
from cascade.models.document_leaks import require_documents_apart
from cascade.models.loading import load_model
from cascade.models.logprobs import LogProbModel
from cascade.types import TrainingSequence


class LocalTeacherScorer:
    """Implements `ports.TeacherScorer` for checkpoints in folders."""

    def __init__(self, folders: Mapping[str, Path], config: PolicyConfig, pad_id: int, resident: int = 1) -> None:
        """Nothing is loaded yet.

        Args:
            folders: identity -> Hugging Face folder.
            resident: teachers in memory at once; the one asked longest ago leaves for another.
        """
        self.folders = dict(folders)
        self.config = config
        self.pad_id = pad_id
        self.resident = resident
        self._models: dict[str, LogProbModel] = {}  # asked last at the end

    def order(self, teachers: Sequence[str]) -> list[str]:
        """See `ports.TeacherScorer`."""
        return sorted(teachers, key=lambda teacher: (teacher not in self._models, teacher))

    def score(self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """See `ports.TeacherScorer`."""
        model = self._load(teacher)
        return score_sequences(
            lambda batch: model(batch.input_ids, batch.position_ids, batch.loss_mask, temperature)[0],
            sequences,
            self.config,
            self.pad_id,
        )

    def top_k(
        self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float, k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `ports.TeacherScorer`."""
        model = self._load(teacher)
        ids = [torch.zeros(sequence.loss_tokens, k, dtype=torch.int64) for sequence in sequences]
        values = [torch.zeros(sequence.loss_tokens, k) for sequence in sequences]
        for batch in whole_batches(sequences, self.config, self.pad_id):
            with torch.no_grad():
                hidden = model.hidden_states(batch.input_ids, batch.position_ids)
            chosen = batch.loss_mask[:, 1:].bool()
            top_ids, top_values = model.head.top_k(hidden[:, :-1][chosen], k, temperature)
            owners = batch.sequence_index[:, 1:][chosen]
            for owner in owners.unique().tolist():
                ids[owner], values[owner] = top_ids[owners == owner].cpu(), top_values[owners == owner].cpu()
        return list(zip(ids, values, strict=True))

    def _load(self, teacher: str) -> LogProbModel:
        """The teacher's model; where there is no room, another leaves first."""
        if teacher not in self.folders:
            raise EngineError(f"No teacher {teacher} was resolved for this stage.", "Check the stage's `teachers`.")
        if teacher in self._models:
            self._models[teacher] = self._models.pop(teacher)
            return self._models[teacher]
        while len(self._models) >= self.resident:
            del self._models[next(iter(self._models))]
        model = load_model(self.folders[teacher], self.config).to(parallel.device()).eval().requires_grad_(False)
        module = LogProbModel(model, self.config.log_prob_chunk)
        if self.config.packing:
            require_documents_apart(module, model)
        self._models[teacher] = module
        return module
