"""Teachers scored by servers: each server holds one, and takes over the weights of the next where they are more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cascade.errors import EngineError
from cascade.ports import ScoringEngine
from cascade.types import TrainingSequence


class ServedTeacherScorer:
    """Implements `ports.TeacherScorer`. Every rank holds one and asks for the same teachers in the same order."""

    def __init__(self, folders: Mapping[str, Path], stations: Sequence[Station], batch_sequences: int) -> None:
        """`folders`: identity -> Hugging Face folder. At most `batch_sequences` are at a server at once, by a rank."""
        self.folders = dict(folders)
        self.stations = stations
        self.batch_sequences = batch_sequences

    def order(self, teachers: Sequence[str]) -> list[str]:
        """See `ports.TeacherScorer`."""
        held = {str(station.folder) for station in self.stations}
        return sorted(teachers, key=lambda teacher: (str(self.folders.get(teacher)) not in held, teacher))

    def score(self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float) -> list[list[float]]:
        """See `ports.TeacherScorer`."""
        engine = self._holding(teacher)
        return [row for batch in self._batches(sequences) for row in engine.score(batch, temperature)]

    def top_k(
        self, teacher: str, sequences: Sequence[TrainingSequence], temperature: float, k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `ports.TeacherScorer`."""
        engine = self._holding(teacher)
        return [pair for batch in self._batches(sequences) for pair in engine.top_k(batch, temperature, k)]

    def _batches(self, sequences: Sequence[TrainingSequence]) -> list[Sequence[TrainingSequence]]:
        return [sequences[i : i + self.batch_sequences] for i in range(0, len(sequences), self.batch_sequences)]

    def _holding(self, teacher: str) -> ScoringEngine:
        """The engine of a station that has the teacher's weights; the one used longest ago takes them over."""
        if teacher not in self.folders:
            raise EngineError(f"No teacher {teacher} was resolved for this stage.", "Check the stage's `teachers`.")
        folder = self.folders[teacher]
        station = next((s for s in self.stations if s.folder == folder), None)
        station = station or min(self.stations, key=lambda station: station.used)
        station.hold(folder, 1 + max(other.used for other in self.stations))
        return station.engine


class Station:
    """An engine and the checkpoint it holds. Lives as long as the run: stages hand the servers on."""

    def __init__(self, engine: ScoringEngine) -> None:
        self.engine = engine
        self.folder: Path | None = None
        self.used = 0  # when, counted in calls

    def hold(self, folder: Path, now: int) -> None:
        """Makes the engine hold the checkpoint in `folder`. Collective."""
        if self.folder != folder:
            self.folder = None  # a failure leaves it undefined
            self.engine.load(folder)
            self.folder = folder
        self.used = now
