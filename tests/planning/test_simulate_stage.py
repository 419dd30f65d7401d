"""A stage of a recipe is simulated with the plan's own seconds, on splits of the cluster that have room for it."""

from __future__ import annotations

import json

import pytest

from cascade.commands import checked_recipe
from cascade.errors import ConfigError
from cascade.planning.case import Case
from cascade.planning.response_lengths import ReplayedLengths
from cascade.planning.shapes import model_shape
from cascade.planning.simulate_stage import Choice, choices_json, choices_text, simulated_choices
from tests.conftest import cascade_here

WORDS = ["recipe=smoke", "model=llama_3_2_1b", "model.tokenizer=characters", "cluster=h100", "rollout=vllm_server"]
RECIPE, ORDER, *_ = checked_recipe([*WORDS, "cluster.nodes=4", "policy=bf16", "stages.if_rl.prompts_per_step=64"])
CASE = Case.of(RECIPE, ORDER, model_shape(RECIPE.model))


def choices(*staleness: int, stage: str = "if_rl", lengths: ReplayedLengths | None = None) -> list[Choice]:
    return simulated_choices(CASE, stage, lengths, staleness=staleness, steps=12)


def test_choices_come_fastest_first_and_can_be_typed() -> None:
    found = choices(0, 2)
    steps = [choice.simulated.step_s for choice in found]
    assert steps == sorted(steps)
    assert {choice.max_staleness for choice in found} == {0, 2}
    typed = found[0].overrides.split()
    assert checked_recipe([*WORDS, "cluster.nodes=4", "policy=bf16", *typed])[0].stages["if_rl"].max_staleness == 2
    assert choices_text(found).endswith(f"fastest: {found[0].overrides}")


def test_no_split_takes_more_gpus_than_there_are() -> None:
    assert all(choice.training + choice.sampling <= 32 for choice in choices(0))


def test_longer_answers_take_longer() -> None:
    short, long = (choices(0, lengths=ReplayedLengths(((tokens,) * 8,)))[0].simulated for tokens in (50, 500))
    assert long.step_s > 2 * short.step_s


def test_the_table_is_data_too() -> None:
    found = choices(1)
    assert [entry["seconds_per_step"] for entry in choices_json(found)] == [one.simulated.step_s for one in found]


@pytest.mark.parametrize(("stage", "said"), [("sft", "samples nothing"), ("iff_rl", "no stage `iff_rl`")])
def test_a_stage_without_rollouts_is_refused(stage: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choices(0, stage=stage)


def test_the_command_prints_json() -> None:
    words = [*WORDS, "cluster.nodes=2", "--stage", "if_rl", "--staleness", "0,1", "--steps", "4", "--json"]
    done = cascade_here("simulate", *words)
    assert done.returncode == 0, done.stderr
    assert {entry["max_staleness"] for entry in json.loads(done.stdout)} == {0, 1}
