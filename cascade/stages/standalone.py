"""Evaluating a checkpoint outside a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from transformers import AutoTokenizer

from cascade import parallel
from cascade.config import Recipe
from cascade.ports import Environment
from cascade.prompts import Renderer
from cascade.stages.engines import Engines
from cascade.stages.evaluate import evaluate
from cascade.stages.train import completion_limits, thinking_modes
from cascade.types import Scores, Split


def evaluate_checkpoint(
    recipe: Recipe, environments: Mapping[str, Environment], model: Path, splits: Sequence[Split]
) -> Scores:
    """The scores of the Hugging Face folder `model` under the recipe's evaluation. Collective."""
    parallel.start(recipe.launch.threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    renderer = Renderer(environments, thinking_modes(recipe), tokenizer)
    with closing(Engines(recipe, environments, tokenizer, Path(recipe.run_dir) / "rollout")) as engines:
        limits = completion_limits(recipe)
        return evaluate(engines.rollout(model), renderer, engines.verifiers, recipe.evaluation, limits, splits)
