"""From prompts to scored groups, on one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cascade.episodes import Episode, play
from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import Environment, RolloutEngine, ScoresEpisodes
from cascade.prompts import Renderer
from cascade.types import Group, Prompt, Rollout, Row, Score


def sample_groups(
    engine: RolloutEngine,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_tokens: Mapping[str, int],
    seed: int,
) -> list[Group]:
    """Samples and scores `samples` rollouts of every prompt, in the order of the prompts.

    Talks to no other process, so that any thread may call it.

    Args:
        prompts: this process's share of them.
        renderer: what made the prompts, and holds their environments.
        max_tokens: environment -> tokens that an episode has in all: sampled, and written by the environment.
    """
    limits = [max_tokens[prompt.row.environment] for prompt in prompts]
    sampled = engine.generate(prompts, samples, temperature, limits, seed)
    first = [rollout for rollouts in sampled for rollout in rollouts]
    each = [limit for limit, rollouts in zip(limits, sampled, strict=True) for _ in rollouts]
    played = iter(play(engine, renderer, first, temperature, each, seed))
    environments = [renderer.environments[prompt.row.environment] for prompt in prompts]
    return [
        Group(prompt, tuple(score_episode(environment, next(played)) for _ in rollouts))
        for prompt, environment, rollouts in zip(prompts, environments, sampled, strict=True)
    ]


def score_episode(environment: Environment, episode: Episode) -> Rollout:
    """The episode's rollout with its score, or with the reason why it has none.

    A `VerifierFailure` of the infrastructure or of the row is a failure; one that is the model's own doing earns 0.
    An episode that was interrupted for good is a failure too.
    """
    rollout = episode.rollout
    try:
        if episode.failure:
            raise episode.failure
        if rollout.finish_reason == "abort":
            raise VerifierFailure(FailureKind.INFRASTRUCTURE, "interrupted before its end")
        return dataclasses.replace(rollout, score=_judged(environment, rollout.prompt.row, episode.answers))
    except VerifierFailure as failure:
        if failure.kind is FailureKind.TASK:
            return dataclasses.replace(rollout, score=Score(0.0, {"task_failure": 1.0}))
        return dataclasses.replace(rollout, failure=str(failure))


def _judged(environment: Environment, row: Row, answers: Sequence[str]) -> Score:
    if isinstance(environment, ScoresEpisodes):
        return environment.score_episode(row, answers)
    return environment.score(row, answers[-1])
