"""Trains one stage: from its parent's checkpoint, or from where it was killed, to an exported model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade import checkpoint, parallel
from cascade.algorithms.schedule import learning_rate
from cascade.checkpoint import StageState
from cascade.config import Recipe, RlStage, SftStage
from cascade.data.mixture import Mixture
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy
from cascade.ports import Environment
from cascade.prompts import PromptSource, Renderer
from cascade.rollout.canary import Canary
from cascade.run_folder import RunFolder
from cascade.sampling import Sampler
from cascade.seeds import derived_seed
from cascade.stages.engines import Engines
from cascade.step import REFERENCE, StepOutcome, Workers, rollout_step, sft_step
from cascade.teachers.probe import probe_teachers
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
        return {"zero_stage": policy.zero_stage, "dtype": policy.dtype, "processes": parallel.world_size()}


def train_stage(job: StageJob, trackers: StageTrackers) -> StageState:
    """Runs the stage to its last step and exports the model. Collective.

    What an earlier attempt saved under the same identity is taken up.
    """
    stage = job.stage
    probe_teachers({t.stage: job.folder(t) for t in job.teachers.values()}, job.folder(job.parent), job.tokenizer)
    policy = DeepSpeedPolicy(job.folder(job.parent), job.recipe.policy, stage, freeze_router=stage.freeze_router)
    if job.recipe.policy.deepspeed and parallel.rank() == 0:
        print(f"DeepSpeed configuration: {json.dumps(policy.engine_config, indent=2)}", flush=True)
    work = _workers(job, policy)
    folder = job.run.checkpoints(job.name)
    state = checkpoint.restore(policy, folder, job.identity, job.sharding)
    state = state or StageState(job.identity, 0, 0.0, work.source.mixture.state(), job.sharding)
    work.source.mixture.restore(state.mixture)
    trackers.begin(job.name, stage.kind, stage.max_steps, state.step)
    started = time.monotonic() - state.wall_s
    with work.sampler.begun(policy, state) if work.sampler else nullcontext():
        for step in range(state.step, stage.max_steps):
            step_started = time.monotonic()
            outcome = one_step(work, stage, step)
            metrics = {**outcome.metrics, "step_time": time.monotonic() - step_started}
            trackers.step(job.name, step + 1, metrics, outcome.rollouts)
            now = time.monotonic() - started
            state = StageState(job.identity, step + 1, now, work.source.mixture.state(), job.sharding)
            if state.step % stage.save_steps == 0 and state.step < stage.max_steps:
                waiting = work.sampler.ahead.waiting() if work.sampler else ()
                checkpoint.save(policy, folder, replace(state, waiting=waiting))
    card = {"identity": job.identity, "stage": job.name, "step": state.step, "wall_s": state.wall_s}
    export_policy(policy, job.run.model(job.name), job.tokenizer, card)
    policy.close()
    return state


def one_step(work: Workers, stage: Any, step: int) -> StepOutcome:
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


def _workers(job: StageJob, policy: DeepSpeedPolicy) -> Workers:
    stage, recipe = job.stage, job.recipe
    seed = derived_seed(recipe.seed, job.name)
    rows = {name: job.environments[name].rows("train") for name in stage.mix}
    teachers = {domain: teacher.identity for domain, teacher in job.teachers.items()}
    folders = {teacher.identity: job.folder(teacher) for teacher in job.teachers.values()}
    if isinstance(stage, RlStage) and stage.kl_coef:
        folders[REFERENCE] = job.folder(job.parent)
    pad_id = job.tokenizer.pad_token_id if job.tokenizer.pad_token_id is not None else job.tokenizer.eos_token_id
    source = PromptSource(
        Renderer(job.environments, thinking_modes(recipe), job.tokenizer),
        Mixture(rows, stage.mix, seed),
        recipe.policy.row_tokens,
        teachers,
    )
    return Workers(
        policy=policy,
        source=source,
        sampler=None if isinstance(stage, SftStage) else _sampler(job, source, seed),
        teachers=job.engines.teachers(folders, pad_id),
        packing=recipe.policy,
        pad_id=pad_id,
    )


def _sampler(job: StageJob, source: PromptSource, seed: int) -> Sampler:
    return Sampler(
        engine=job.engines.rollout(job.folder(job.parent)),
        source=source,
        max_tokens=completion_limits(job.recipe, job.stage.max_completion_length),
        stage=job.stage,
        seed=seed,
        canary=Canary.of(job.recipe, job.tokenizer) if job.recipe.rollout.canary_every else None,
    )
