"""A stage of a recipe on a cluster, simulated: how old its rollouts may be, and which GPUs train and sample."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.config import SamplingStage
from cascade.errors import ConfigError
from cascade.naming import nearest
from cascade.planning.caches import SEQUENCES
from cascade.planning.case import Case
from cascade.planning.changes import Changes, words
from cascade.planning.generation import decoder
from cascade.planning.response_lengths import LogNormalLengths, ResponseLengths
from cascade.planning.roles import sequences_at_once
from cascade.planning.simulate import Loop, Simulated, simulate
from cascade.planning.simulated_replicas import ReplicaSpeed
from cascade.planning.splits import candidates
from cascade.planning.stage_plan import verifier_workers

COLUMNS = (
    ("training", 9),
    ("sampling", 9),
    ("stale", 6),
    ("s a step", 10),
    ("tokens/s", 11),
    ("trainer", 9),
    ("servers", 9),
    ("age", 6),
)
SPLITS = 12
"""Layouts that are simulated: those that the plan's arithmetic finds fastest."""


@dataclass(frozen=True)
class Failures:
    """How often servers of rollouts are lost: mean time between failures of one, and until it is back; 0: never."""

    every_h: float = 0.0
    restart_s: float = 300.0


@dataclass(frozen=True)
class Choice:
    """One way to run the stage, and what came of it."""

    changes: Changes  # of the recipe
    training: int  # GPUs
    sampling: int  # GPUs
    max_staleness: int
    simulated: Simulated

    @property
    def overrides(self) -> str:
        """As they are typed."""
        return " ".join(words(self.changes))


def simulated_choices(
    case: Case,
    name: str,
    lengths: ResponseLengths | None,
    *,
    staleness: Sequence[int],
    steps: int,
    seed: int = 0,
    failures: Failures | None = None,
) -> list[Choice]:
    """The stage under every staleness and the most promising splits of the cluster, fastest first.

    `lengths`: of a run; None: log-normal, as the recipe's `planning` says. Raises `ConfigError` for a stage that does
    not sample, and where no layout fits.
    """
    stage = _sampling_stage(case, name)
    found = [
        Choice(
            {**changes, f"stages.{name}.max_staleness": ahead},
            split.layout.training,
            split.layout.rollout.gpus or split.layout.training,
            ahead,
            simulate(loop_of(split, name, lengths, ahead, failures or Failures()), used, steps=steps, seed=seed),
        )
        for changes, split in _splits(case, name)
        for ahead in staleness
        if not (ahead and split.layout.rollout.colocated)  # one after the other on the same GPUs, whatever is allowed
        for used in [lengths or planned_lengths(split, name, stage)]
    ]
    return sorted(found, key=lambda choice: choice.simulated.step_s)


def loop_of(case: Case, name: str, lengths: ResponseLengths | None, ahead: int, failures: Failures) -> Loop:
    """The loop of a stage, with the seconds that the plan predicts for each of its parts."""
    stage = _sampling_stage(case, name)
    work, layout = case.works[name], case.layout
    mean = work.completion_tokens / work.sequences if lengths is None else _mean(lengths, stage.num_generations)
    plan = next(one for one in case.plan().stages if one.name == name)
    replica = decoder(case.shape, case.recipe.rollout, case.cluster, case.recipe.policy.dtype)
    prompt = work.prompt_tokens / work.sequences
    room = max(1, min(SEQUENCES, sequences_at_once(case.recipe, case.shape, case.cluster, layout, work)))
    fixed = plan.training.optimizer
    judged = [(each.verdict_s, each.count) for each in work.answers]
    return Loop(
        prompts=stage.prompts_per_step,
        rollouts=stage.num_generations,
        max_staleness=ahead,
        replicas=layout.rollout.replicas,
        speed=ReplicaSpeed(
            tuple(replica.step_s(max(1, running), prompt + mean / 2) for running in range(room + 1)),
            prefill_s=replica.prefill_s(prompt) / (stage.num_generations if replica.served else 1),
        ),
        train_s=fixed,
        train_token_s=(plan.seconds.training - fixed + plan.seconds.scoring) / work.completion_tokens,
        publish_s=plan.seconds.publishing,
        verify_s=sum(seconds * count for seconds, count in judged) / sum(count for _, count in judged),
        verifiers=verifier_workers(case.recipe, case.cluster, layout),
        failure_every_s=failures.every_h * 3600,
        restart_s=failures.restart_s,
    )


def planned_lengths(case: Case, name: str, stage: SamplingStage) -> LogNormalLengths:
    """What the recipe's `planning` assumes of the stage's answers, all environments together."""
    answers = case.works[name].answers
    total = sum(each.count for each in answers)
    mean = sum(each.mean * each.count for each in answers) / total
    return LogNormalLengths(mean, case.recipe.planning.length_sigma, max(each.limit for each in answers))


def choices_text(choices: Sequence[Choice]) -> str:
    """A table, fastest first, and what to type for the fastest."""
    head = "".join(f"{word:>{width}}" for word, width in COLUMNS)
    lines = [head + "   (GPUs; versions; median; sampled tokens; busy; busy; mean versions)"]
    for choice in choices:
        done = choice.simulated
        lines.append(
            f"{choice.training:>9}{choice.sampling:>9}{choice.max_staleness:>6}{done.step_s:>10.1f}"
            f"{done.tokens_per_s:>11,.0f}{done.trainer_busy:>9.0%}{done.replicas_busy:>9.0%}{done.staleness:>6.2f}"
        )
    return "\n".join([*lines, "", f"fastest: {choices[0].overrides}"])


def choices_json(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """The table as data."""
    return [
        {
            "overrides": words(choice.changes),
            "training_gpus": choice.training,
            "rollout_gpus": choice.sampling,
            "max_staleness": choice.max_staleness,
            "seconds_per_step": choice.simulated.step_s,
            "tokens_per_second": choice.simulated.tokens_per_s,
            "trainer_busy": choice.simulated.trainer_busy,
            "replicas_busy": choice.simulated.replicas_busy,
            "staleness": choice.simulated.staleness,
            "failures": choice.simulated.failures,
        }
        for choice in choices
    ]


def _sampling_stage(case: Case, name: str) -> Any:
    if name not in case.recipe.stages:
        raise ConfigError(f"There is no stage `{name}`.", nearest(name, case.recipe.stages, "stage"))
    stage = case.recipe.stages[name]
    if not isinstance(stage, SamplingStage):
        sampling = [other for other, one in case.recipe.stages.items() if isinstance(one, SamplingStage)]
        raise ConfigError(f"The stage `{name}` samples nothing.", nearest(name, sampling, "stage that samples"))
    return stage


def _splits(case: Case, name: str) -> Iterator[tuple[Changes, Case]]:
    """The recipe's own layout and others that fit, the fastest by arithmetic."""
    tried = [({}, case), *((changes, case.changed(changes)) for changes in candidates(case))]
    fitting = [
        (changes, split)
        for changes, split in tried
        if split.refused() is None and all(role.fits for role in split.roles()[name])
    ]
    if not fitting:
        raise ConfigError(f"No split of the cluster has room for `{name}`.", "See `cascade plan` for what is missing.")

    def seconds(pair: tuple[Changes, Case]) -> float:
        plan = next(one for one in pair[1].plan().stages if one.name == name).seconds
        return max(plan.generation + plan.verification, plan.training + plan.scoring)

    yield from sorted(fitting, key=seconds)[:SPLITS]


def _mean(lengths: ResponseLengths, rollouts: int) -> float:
    rng = np.random.default_rng(0)
    return statistics.fmean(tokens for _ in range(200) for tokens in lengths.draw(rollouts, rng))
