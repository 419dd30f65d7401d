"""How good a checkpoint is in every domain: validation for choosing, test for reporting."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from cascade import parallel
from cascade.config import EvaluationConfig
from cascade.errors import EngineError
from cascade.ports import Environment, GivesPairs, RolloutEngine
from cascade.prompts import Renderer
from cascade.rollouts import sample_groups
from cascade.seeds import derived_seed
from cascade.types import Group, Split, SplitScore
from cascade.verification.jobs import Verifiers


def evaluate(
    engine: RolloutEngine,
    renderer: Renderer,
    verifiers: Verifiers,
    config: EvaluationConfig,
    max_tokens: Mapping[str, int],
    splits: Sequence[Split] = ("validation", "test"),
) -> dict[str, dict[str, SplitScore]]:
    """split -> domain -> score of the weights in the engine. Collective.

    With `samples` k > 1 the mean is avg@k, and pass@k is the share of rows of which some answer earned 1.
    """
    return {split: _evaluate_split(engine, renderer, verifiers, config, max_tokens, split) for split in splits}


def _evaluate_split(
    engine: RolloutEngine,
    renderer: Renderer,
    verifiers: Verifiers,
    config: EvaluationConfig,
    max_tokens: Mapping[str, int],
    split: Split,
) -> dict[str, SplitScore]:
    wanted = config.validation_rows if split == "validation" else config.test_rows
    scored = scored_environments(renderer.environments)
    rows = [row for environment in scored.values() for row in environment.rows(split)[:wanted]]
    share = sample_groups(
        engine,
        renderer,
        verifiers,
        parallel.spread([renderer.prompt(row) for row in rows]),
        samples=config.samples,
        temperature=config.temperature,
        max_tokens=max_tokens,
        seed=derived_seed("evaluation", split),
    )
    by_domain: dict[str, list[Group]] = defaultdict(list)
    for group in parallel.collect(share):
        by_domain[group.prompt.row.domain].append(group)
    return {domain: score_groups(found, config.samples) for domain, found in by_domain.items()}


def scored_environments(environments: Mapping[str, Environment]) -> dict[str, Environment]:
    """The environments that policies are evaluated on: all but those that only hold preference pairs."""
    pairs = {name for name, made in environments.items() if isinstance(made, GivesPairs) and made.pairs_only}
    return {name: environment for name, environment in environments.items() if name not in pairs}


def score_groups(groups: Sequence[Group], k: int) -> SplitScore:
    """Mean, standard error over rows, and pass@k. Rows that could not be scored do not count.

    Raises `EngineError` when none could be scored.
    """
    rewards = [[r.reward for r in group.rollouts if r.score is not None] for group in groups]
    rewards = [row for row in rewards if row]
    if not rewards:
        first = groups[0].rollouts[0].failure
        raise EngineError(f"No answer of {groups[0].prompt.row.environment} could be scored: {first}.", "Mend `score`.")
    means = [statistics.fmean(row) for row in rewards]
    stderr = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    passed = statistics.fmean(max(row) >= 1.0 for row in rewards)
    return SplitScore(statistics.fmean(means), stderr, len(means), passed if k > 1 else None, k)
