"""The engines of a run besides the policy: made when first asked for, shared by all stages, freed at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cascade.config import Recipe
from cascade.ports import Environment, RolloutEngine, TeacherScorer
from cascade.serving.arguments import require_vllm
from cascade.teachers.served import ServedTeacherScorer, Station
from cascade.verification.build import build_verifiers
from cascade.verification.jobs import Verifiers, specs_of


@dataclass
class Engines:
    """What samples and what scores. Every rank holds one."""

    recipe: Recipe
    environments: Mapping[str, Environment]
    tokenizer: Any
    folder: Path  # for logs and for copies of weights
    _rollout: RolloutEngine | None = field(default=None, init=False)
    _stations: Sequence[Station] = field(default=(), init=False)  # servers of teachers

    def __post_init__(self) -> None:
        """Raises `EngineError` when an engine that the recipe asks for is not installed: before any compute."""
        for asked in (self.recipe.rollout, self.recipe.teachers):
            if asked.engine.startswith("vllm") and not asked.urls:
                require_vllm()

    def rollout(self, weights: Path) -> RolloutEngine:
        """The rollout engine of the recipe with the weights of a Hugging Face folder. Collective."""
        self._rollout = self._rollout or rollout_engine(self.recipe, self.tokenizer, self.folder)
        self._rollout.load(weights)
        return self._rollout

    @cached_property
    def verifiers(self) -> Verifiers:
        """What scores answers, on this process."""
        recipe = self.recipe
        return build_verifiers(recipe.verifiers, self.environments, specs_of(recipe.environments, recipe.seed))

    def teachers(self, folders: Mapping[str, Path], pad_id: int) -> TeacherScorer:
        """The scorer of a stage's teachers. `folders`: identity -> Hugging Face folder."""
        config = self.recipe.teachers
        if config.engine == "local":
            from cascade.teachers.scorer import LocalTeacherScorer

            return LocalTeacherScorer(folders, self.recipe.policy, pad_id, config.resident)
        self._stations = self._stations or teacher_stations(self.recipe, self.tokenizer, self.folder)
        return ServedTeacherScorer(folders, self._stations, config.batch_sequences)

    def close(self) -> None:
        """Frees everything."""
        for engine in (self._rollout, *(station.engine for station in self._stations)):
            if engine:
                engine.close()
        if "verifiers" in vars(self):
            self.verifiers.close()


def rollout_engine(recipe: Recipe, tokenizer: Any, folder: Path) -> RolloutEngine:
    """The rollout engine that the recipe names, without weights yet. No engine stands in for another."""
    replayed = any(getattr(stage, "routing_replay", False) for stage in recipe.stages.values())
    config = replace(recipe.rollout, record_routing=recipe.rollout.record_routing or replayed)
    match config.engine:
        case "hf":
            from cascade.rollout.hf import HfRolloutEngine

            return HfRolloutEngine(recipe.policy, config, tokenizer)
        case "vllm_inprocess":
            from cascade.rollout.vllm_inprocess import VllmInProcessEngine

            return VllmInProcessEngine(recipe.policy, config, tokenizer)
        case "vllm_server":
            from cascade.rollout.vllm_server import VllmServerEngine

            return VllmServerEngine(recipe.policy, config, tokenizer, folder)


def teacher_stations(recipe: Recipe, tokenizer: Any, folder: Path) -> list[Station]:
    """One station a server; the servers are those of rollouts in all but their number and place."""
    from cascade.rollout.vllm_server import VllmServerEngine

    config = recipe.teachers
    each = [replace(recipe.rollout, replicas=1, urls=[url]) for url in config.urls]
    each = each or [replace(recipe.rollout, replicas=1, urls=[])] * config.replicas
    folders = (folder / f"teachers_{number}" for number in range(len(each)))
    return [
        Station(VllmServerEngine(recipe.policy, one, tokenizer, place))
        for one, place in zip(each, folders, strict=True)
    ]
