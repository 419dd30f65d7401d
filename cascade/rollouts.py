"""From prompts to scored groups, spread over all ranks, the same on every rank afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cascade import parallel
from cascade.errors import FailureKind, VerifierFailure
from cascade.ports import Environment, RolloutEngine
from cascade.types import Group, Prompt, Rollout, Score


def collect_groups(
    engine: RolloutEngine,
    environments: Mapping[str, Environment],
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_tokens: Mapping[str, int],
    seed: int,
) -> list[Group]:
    """Samples and scores `samples` rollouts of every prompt, in the order of the prompts. Collective.

    `max_tokens`: environment -> tokens. Each rank samples and scores its share; every rank gets all.
    """
    share = parallel.spread(list(prompts))
    groups = sample_groups(
        engine, environments, share, samples=samples, temperature=temperature, max_tokens=max_tokens, seed=seed
    )
    return parallel.collect(groups)


def sample_groups(
    engine: RolloutEngine,
    environments: Mapping[str, Environment],
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_tokens: Mapping[str, int],
    seed: int,
) -> list[Group]:
    """What `collect_groups` does on one process. Talks to no other process, so that any thread may call it."""
    limits = [max_tokens[prompt.row.environment] for prompt in prompts]
    sampled = engine.generate(prompts, samples, temperature, limits, seed)
    return [
        Group(prompt, tuple(score_rollout(environments[prompt.row.environment], rollout) for rollout in rollouts))
        for prompt, rollouts in zip(prompts, sampled, strict=True)
    ]


def score_rollout(environment: Environment, rollout: Rollout) -> Rollout:
    """The rollout with its score, or with the reason why it has none.

    A `VerifierFailure` of the infrastructure or of the row is a failure; one that is the model's own doing earns 0.
    """
    try:
        return dataclasses.replace(rollout, score=environment.score(rollout.prompt.row, answer_of(rollout)))
    except VerifierFailure as failure:
        if failure.kind is FailureKind.TASK:
            return dataclasses.replace(rollout, score=Score(0.0, {"task_failure": 1.0}))
        return dataclasses.replace(rollout, failure=str(failure))


def answer_of(rollout: Rollout) -> str:
    """What is judged: the text without its reasoning. Reasoning that never ended leaves no answer."""
    if not rollout.prompt.thinking:
        return rollout.text
    _, closed, answer = rollout.text.rpartition("</think>")
    return answer.strip() if closed else ""
