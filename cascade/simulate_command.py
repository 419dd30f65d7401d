"""`cascade simulate`: a stage's rollouts ahead of training, under several stalenesses and splits of a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cascade.compose import composed
from cascade.planning.case import Case
from cascade.planning.response_lengths import lengths_of_run
from cascade.planning.shapes import model_shape
from cascade.planning.simulate_stage import Failures, choices_json, choices_text, simulated_choices
from cascade.run_folder import json_text
from cascade.stage_graph import stage_order


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Prints the choices, fastest first."""
    recipe, origins = composed(options.overrides)
    choices = simulated_choices(
        Case.of(recipe, stage_order(recipe, origins), model_shape(recipe.model)),
        options.stage,
        lengths_of_run(Path(options.rollouts)) if options.rollouts else None,
        staleness=options.staleness,
        steps=options.steps,
        seed=recipe.seed,
        failures=Failures(options.failure_every_h, options.restart_s),
    )
    print(json_text(choices_json(choices), indent=2) if options.json else choices_text(choices))
