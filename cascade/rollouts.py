"""From prompts to scored groups, on one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cascade.episodes import Episode, play
from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import RolloutEngine
from cascade.prompts import Renderer
from cascade.types import Group, Prompt, Rollout, Verdict
from cascade.verification.jobs import Job, Verifiers
from cascade.verification.verdicts import verdict_of


def sample_groups(
    engine: RolloutEngine,
    renderer: Renderer,
    verifiers: Verifiers,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_tokens: Mapping[str, int],
    seed: int,
) -> list[Group]:
    """Samples and scores `samples` rollouts of every prompt, in the order of the prompts.

    Talks to no other process of the training, so that any thread may call it.

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
    episodes = [[next(played) for _ in rollouts] for rollouts in sampled]
    return [
        Group(prompt, tuple(map(_with_verdict, group, verdicts)))
        for prompt, group, verdicts in zip(prompts, episodes, judge_episodes(verifiers, episodes), strict=True)
    ]


def judge_episodes(verifiers: Verifiers, groups: Sequence[Sequence[Episode]]) -> list[list[Verdict]]:
    """The verdicts on the episodes of every prompt. What ended before it could be judged has a verdict already."""
    verdicts = [[_ended_early(episode) for episode in group] for group in groups]
    judged = [[place for place, verdict in enumerate(early) if verdict is None] for early in verdicts]
    asked = [number for number, places in enumerate(judged) if places]
    jobs = [_job([groups[number][place] for place in judged[number]]) for number in asked]
    for number, found in zip(asked, verifiers.verify(jobs), strict=True):
        for place, verdict in zip(judged[number], found, strict=True):
            verdicts[number][place] = verdict
    return [[verdict for verdict in group if verdict is not None] for group in verdicts]


def _job(episodes: Sequence[Episode]) -> Job:
    row = episodes[0].rollout.prompt.row
    return Job(row.environment, row, tuple(episode.attempt for episode in episodes))


def _ended_early(episode: Episode) -> Verdict | None:
    if episode.failure:
        return verdict_of(episode.failure, 0.0)
    if episode.rollout.finish_reason == "abort":
        return verdict_of(VerifierFailure(FailureKind.INFRASTRUCTURE, "interrupted before its end"), 0.0)
    return None


def _with_verdict(episode: Episode, verdict: Verdict) -> Rollout:
    """The episode's rollout with its score, or with the reason why it has none."""
    failure = None if verdict.score else f"{verdict.status}: {verdict.reason}"
    return dataclasses.replace(episode.rollout, score=verdict.score, failure=failure)
