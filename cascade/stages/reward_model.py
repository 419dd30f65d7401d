"""A finished reward model, judged: once for every evaluation that is asked for, and kept beside its checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from cascade import parallel
from cascade.atomic import write_json
from cascade.data.tokenizers import pad_id_of
from cascade.identity import hash_of
from cascade.prompts import Renderer
from cascade.stages.evaluate_pairs import evaluate_pairs, sentence
from cascade.stages.train import StageJob, thinking_modes
from cascade.teachers.reward import LocalRewardModel
from cascade.types import PairScore, PairScores, SplitScore


def judged(job: StageJob, say: Callable[[str], None]) -> PairScores:
    """split -> domain -> score of the stage's exported model on the pairs of its mix. Collective.

    Measured unless `evaluation.json` holds this very evaluation of this very model.
    """
    recipe, environments = job.recipe, {name: job.environments[name] for name in job.stage.mix}
    configs = {name: recipe.environments[name] for name in environments}
    asked = hash_of({"evaluation": recipe.evaluation, "environments": configs})
    known = parallel.on_first(lambda: _known(job, asked))
    if known:
        return known
    started = time.monotonic()
    say(f"{job.name}  evaluating on the pairs of {', '.join(environments)}")
    model = LocalRewardModel(job.run.model(job.name), recipe.policy, pad_id_of(job.tokenizer))
    renderer = Renderer(environments, thinking_modes(recipe), job.tokenizer)
    scores = evaluate_pairs(model, renderer, recipe.evaluation)
    entry = {"identity": job.identity, "evaluation": asked, "wall_s": time.monotonic() - started, "scores": {}}
    parallel.on_first(lambda: write_json(job.run.evaluation(job.name), {**entry, "pairs": scores}))
    for split, by_domain in scores.items():
        for domain, score in by_domain.items():
            say(f"{job.name}  {sentence(split, domain, score)}")
    return scores


def pair_scores(plain: Mapping[str, Any]) -> PairScores:
    """The inverse of what `evaluation.json` holds under `pairs`; a margin that was no number is NaN."""
    return {split: {domain: _score(one) for domain, one in by.items()} for split, by in plain.items()}


def _known(job: StageJob, asked: str) -> PairScores | None:
    file = job.run.evaluation(job.name)
    if not file.is_file():
        return None
    entry = json.loads(file.read_text(encoding="utf-8"))
    same = entry.get("identity") == job.identity and entry.get("evaluation") == asked
    return pair_scores(entry["pairs"]) if same else None


def _score(plain: Mapping[str, Any]) -> PairScore:
    values = {
        f.name: SplitScore(**plain[f.name]) if isinstance(plain[f.name], dict) else plain[f.name]
        for f in fields(PairScore)
    }
    return PairScore(**{**values, "margin": math.nan if plain["margin"] is None else plain["margin"]})
