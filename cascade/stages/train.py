"""Trains one stage: from its parent's checkpoint, or from where it was killed, to an exported model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade import checkpoint, parallel
from cascade.algorithms.schedule import learning_rate
from cascade.checkpoint import StageState
from cascade.config import Recipe, RewardModelStage, RlStage, SftStage
from cascade.data.mixture import Mixture
from cascade.data.tokenizers import pad_id_of
from cascade.policy.deepspeed import DeepSpeedEngine, DeepSpeedPolicy
from cascade.policy.export import export_policy
from cascade.policy.moved import MovedCheck
from cascade.policy.reward import DeepSpeedRewardModel
from cascade.ports import Environment
from cascade.prompts import PromptSource, Renderer
from cascade.rollout.canary import Canary
from cascade.run_folder import RunFolder
from cascade.sampling import Sampler
from cascade.seeds import derived_seed
from cascade.stages.engines import Engines
from cascade.stages.rollout_rewards import REWARD, RolloutRewards
from cascade.step import REFERENCE, PairWorkers, StepOutcome, Workers, pair_step, rollout_step, sft_step
from cascade.teachers.probe import probe_teachers
from cascade.teachers.reward import LocalRewardModel
from cascade.tracking.stage import StageTrackers
from cascade.types import Checkpoint


@dataclass(frozen=True)
class StageJob:
    """Everything that decides what a stage becomes."""

    name: str
    recipe: Recipe
    run: RunFolder
    identity: str
    parent: Checkpoint
    teachers: Mapping[str, Checkpoint]  # domain -> teacher
    environments: Mapping[str, Environment]
    tokenizer: Any
    engines: Engines

    @property
    def stage(self) -> Any:
        return self.recipe.stages[self.name]

    def folder(self, checkpoint: Checkpoint) -> Path:
        """Where a checkpoint lies; paths of this run's own are relative to it."""
        return self.run.path / checkpoint.path

    @property
    def sharding(self) -> dict[str, Any]:
        """What must be the same for a saved optimiser state to fit."""
        policy = self.recipe.policy
        return {
            "zero_stage": policy.zero_stage,
            "expert_parallel": policy.expert_parallel,
            "dtype": policy.dtype,
            "processes": parallel.world_size(),
        }


def train_stage(job: StageJob, trackers: StageTrackers) -> StageState:
    """Runs the stage to its last step and exports the model. Collective.

    What an earlier attempt saved under the same identity is taken up.
    """
    stage = job.stage
    probe_teachers({t.stage: job.folder(t) for t in job.teachers.values()}, job.folder(job.parent), job.tokenizer)
    model, work = _model_and_workers(job)
    sampler = work.sampler if isinstance(work, Workers) else None
    if job.recipe.policy.deepspeed and parallel.rank() == 0:
        print(f"DeepSpeed configuration: {json.dumps(model.engine_config, indent=2)}", flush=True)
    folder = job.run.checkpoints(job.name)
    state = checkpoint.restore(model, folder, job.identity, job.sharding)
    state = state or StageState(job.identity, 0, 0.0, work.source.mixture.state(), job.sharding)
    work.source.mixture.restore(state.mixture)
    trackers.begin(job.name, stage.kind, stage.max_steps, state.step)
    started, moved = time.monotonic() - state.wall_s, MovedCheck(model)
    with _begun(work, state):
        for step in range(state.step, stage.max_steps):
            step_started = time.monotonic()
            outcome = one_step(work, stage, step)
            metrics = {**outcome.metrics, **moved.after(outcome.metrics)}
            metrics["step_time"] = time.monotonic() - step_started
            trackers.step(job.name, step + 1, metrics, outcome.rollouts)
            now = time.monotonic() - started
            state = StageState(job.identity, step + 1, now, work.source.mixture.state(), job.sharding)
            if state.step % stage.save_steps == 0 and state.step < stage.max_steps:
                waiting = sampler.ahead.waiting() if sampler else ()
                checkpoint.save(model, folder, replace(state, waiting=waiting))
    card = {"identity": job.identity, "stage": job.name, "step": state.step, "wall_s": state.wall_s}
    export_policy(model, job.run.model(job.name), job.tokenizer, card)
    model.close()
    return state


def one_step(work: Workers | PairWorkers, stage: Any, step: int) -> StepOutcome:
    """Step `step` (from 0) of a stage of any kind, at the rate of its schedule."""
    rate = learning_rate(
        step,
        peak=stage.learning_rate,
        max_steps=stage.max_steps,
        warmup_steps=stage.warmup_steps,
        warmup_start_ratio=stage.warmup_start_ratio,
        shape=stage.lr_schedule,
        min_ratio=stage.min_lr_ratio,
    )
    if isinstance(work, PairWorkers):
        return pair_step(work, stage, rate)
    if isinstance(stage, SftStage):
        return sft_step(work, stage, rate)
    return rollout_step(work, stage, step, rate)


def completion_limits(recipe: Recipe, limit: int | None = None) -> dict[str, int]:
    """environment -> completion tokens, at most `limit`."""
    own = {name: environment.max_completion_length for name, environment in recipe.environments.items()}
    return {name: min(tokens, limit or tokens) for name, tokens in own.items()}


def thinking_modes(recipe: Recipe) -> dict[str, bool | None]:
    """environment -> whether the model is asked to reason."""
    return {name: environment.thinking for name, environment in recipe.environments.items()}


def _model_and_workers(job: StageJob) -> tuple[DeepSpeedEngine, Workers | PairWorkers]:
    """The model that the stage trains, sharded, and what its steps work with."""
    parent, policy, stage = job.folder(job.parent), job.recipe.policy, job.stage
    if not isinstance(stage, RewardModelStage):
        trained = DeepSpeedPolicy(parent, policy, stage, freeze_router=stage.freeze_router)
        return trained, _workers(job, trained)
    policy, pad_id = replace(policy, packing=False), pad_id_of(job.tokenizer)  # one document a row
    seed = derived_seed(job.recipe.seed, job.name, "head")
    model = DeepSpeedRewardModel(parent, policy, stage, freeze_router=stage.freeze_router, pad_id=pad_id, seed=seed)
    return model, PairWorkers(model, _source(job), policy, pad_id)


def _begun(work: Workers | PairWorkers, state: StageState) -> AbstractContextManager[None]:
    """What surrounds the steps of a stage that samples."""
    if isinstance(work, PairWorkers) or work.sampler is None:
        return nullcontext()
    return work.sampler.begun(work.policy, state)


def _workers(job: StageJob, policy: DeepSpeedPolicy) -> Workers:
    stage, recipe = job.stage, job.recipe
    folders = {teacher.identity: job.folder(teacher) for teacher in job.teachers.values()}
    if isinstance(stage, RlStage) and stage.kl_coef:
        folders[REFERENCE] = job.folder(job.parent)
    source, pad_id = _source(job), pad_id_of(job.tokenizer)
    return Workers(
        policy=policy,
        source=source,
        sampler=None if isinstance(stage, SftStage) else _sampler(job, source),
        teachers=job.engines.teachers(folders, pad_id),
        packing=recipe.policy,
        pad_id=pad_id,
    )


def _source(job: StageJob) -> PromptSource:
    rows = {name: job.environments[name].rows("train") for name in job.stage.mix}
    return PromptSource(
        Renderer(job.environments, thinking_modes(job.recipe), job.tokenizer),
        Mixture(rows, job.stage.mix, derived_seed(job.recipe.seed, job.name)),
        job.recipe.policy.row_tokens,
        {domain: teacher.identity for domain, teacher in job.teachers.items()},
    )


def _sampler(job: StageJob, source: PromptSource) -> Sampler:
    return Sampler(
        engine=job.engines.rollout(job.folder(job.parent)),
        verifiers=job.engines.verifiers,
        source=source,
        max_tokens=completion_limits(job.recipe, job.stage.max_completion_length),
        stage=job.stage,
        seed=derived_seed(job.recipe.seed, job.name),
        canary=Canary.of(job.recipe, job.tokenizer) if job.recipe.rollout.canary_every else None,
        reward=_rewards(job, source.renderer),
    )


def _rewards(job: StageJob, renderer: Renderer) -> RolloutRewards | None:
    if REWARD not in job.teachers:
        return None
    model = LocalRewardModel(job.folder(job.teachers[REWARD]), job.recipe.policy, pad_id_of(job.tokenizer))
    return RolloutRewards(model, renderer, job.stage.reward_model_weight)
