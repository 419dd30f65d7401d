"""The recipes of the paper's size are recipes, with the paper's stages and settings; nothing of them is run here."""

from __future__ import annotations

import dataclasses

import pytest

from cascade.commands import checked_recipe
from cascade.config import MopdStage, RlStage, SftStage
from cascade.environments.code import Code
from cascade.environments.preference import Preference
from cascade.environments.swe_agentic import SweAgentic
from cascade.environments.swe_agentless import SweAgentless
from cascade.planning.plan import plan
from cascade.stage_graph import parents

RECIPE, ORDER, ENVIRONMENTS, _ = checked_recipe(["recipe=nemotron-cascade-2"])
RL = [name for name, stage in RECIPE.stages.items() if isinstance(stage, RlStage)]


def rl(name: str) -> RlStage:
    stage = RECIPE.stages[name]
    assert isinstance(stage, RlStage)
    return stage


def test_the_stages_are_the_papers_in_its_order_and_the_rlhf_teacher_branches_off_the_first() -> None:
    main = [name for name in ORDER if name != "rlhf_teacher"]
    assert main == [
        *("sft", "if_rl", "multi_domain_rl", "mopd", "rlhf", "long_context_rl", "code_rl"),
        *("swe_agentless_rl", "swe_agentic_rl"),
    ]
    found = parents(RECIPE)
    assert [found[name] for name in main] == ["base", *main[:-1]]
    assert found["rlhf_teacher"] == "sft"
    assert plan(RECIPE, ORDER).count("(rl) from") == 8


def test_every_environment_of_every_stage_is_built_from_its_parameters() -> None:
    assert {name for stage in RECIPE.stages.values() for name in stage.mix} == ENVIRONMENTS.keys()
    assert isinstance(code := ENVIRONMENTS["code"], Code)
    assert not code.partial
    assert isinstance(agentless := ENVIRONMENTS["swe_agentless"], SweAgentless)
    assert (agentless.reward, agentless.files, agentless.top) == ("judge", "both", 5)
    assert isinstance(agentic := ENVIRONMENTS["swe_agentic"], SweAgentic)
    assert agentic.max_turns == 200
    assert isinstance(preference := ENVIRONMENTS["preference"], Preference)
    assert (preference.pairing, preference.both_orders) == ("all", True)


def test_demonstrations_are_learnt_with_the_papers_optimiser() -> None:
    stage = RECIPE.stages["sft"]
    assert isinstance(stage, SftStage)
    assert (stage.learning_rate, stage.min_lr_ratio, stage.lr_schedule) == (5e-5, 0.1, "cosine")
    assert (stage.adam_beta1, stage.adam_beta2, stage.weight_decay) == (0.9, 0.98, 0.1)
    assert (stage.warmup_steps, stage.max_steps) == (200, 33_000)


@pytest.mark.parametrize("name", RL)
def test_reinforcement_is_strictly_on_policy_with_the_papers_rate_and_batch(name: str) -> None:
    stage = rl(name)
    agentic = name == "swe_agentic_rl"
    assert (stage.prompts_per_step, stage.num_generations) == ((16, 64) if agentic else (128, 16))
    assert stage.learning_rate == 3e-6
    assert (stage.num_iterations, stage.max_staleness, stage.importance) == (1, 0, "none")
    assert stage.kl_coef == (0.03 if name.startswith("rlhf") else 0.0)
    assert stage.temperature == (0.8 if agentic else 1.0)
    assert stage.min_best_reward == (0.5 if name == "swe_agentless_rl" else None)
    assert stage.overlong_penalty == (name == "if_rl")
    assert stage.overlong_filtering == (name in ("multi_domain_rl", "code_rl", "swe_agentless_rl"))
    assert (stage.loss_reduction, stage.baseline, stage.scale_rewards) == ("token", "mean", True)
    assert stage.freeze_router
    assert (stage.adam_beta1, stage.adam_beta2) == (0.9, 0.95)


def test_steps_lengths_and_modes_are_the_papers() -> None:
    steps = {name: RECIPE.stages[name].max_steps for name in RL}
    del steps["rlhf_teacher"], steps["swe_agentic_rl"]  # not stated there
    assert steps == {
        "if_rl": 180,
        "multi_domain_rl": 70,
        "rlhf": 30,
        "long_context_rl": 30,
        "code_rl": 22,
        "swe_agentless_rl": 45,
    }
    lengths = {name: environment.max_completion_length for name, environment in RECIPE.environments.items()}
    assert (lengths["instruction_following"], lengths["stem"]) == (49_152, 49_152)
    assert (lengths["math"], lengths["preference"], lengths["code"]) == (98_304, 16_384, 118 * 1024)
    thinking = {name: environment.thinking for name, environment in RECIPE.environments.items()}
    assert thinking["instruction_following"] is thinking["preference"] is True
    assert thinking["swe_agentic"] is False
    agentic = rl("swe_agentic_rl")
    assert (agentic.warmup_steps, agentic.min_lr_ratio, agentic.lr_schedule) == (10, 0.0, "cosine")


def test_distillation_has_the_papers_teachers_gate_and_warm_up() -> None:
    stage = RECIPE.stages["mopd"]
    assert isinstance(stage, MopdStage)
    assert stage.teachers == {
        **dict.fromkeys(
            ("instruction_following", "tool_use", "multiple_choice", "structured_output"), "multi_domain_rl"
        ),
        "math": "sft",
        "preference": "rlhf_teacher",
    }
    assert (stage.importance, stage.importance_low, stage.importance_high) == ("gate", 0.5, 2.0)
    assert (stage.learning_rate, stage.warmup_steps, stage.warmup_start_ratio) == (2e-6, 30, 0.1)
    assert (stage.prompts_per_step, stage.num_generations, stage.max_steps) == (128, 4, 52)
    assert (stage.loss_reduction, stage.teacher_mix, stage.outcome_weight) == ("sequence", 1.0, 0.0)


def test_every_row_of_a_batch_finds_a_process() -> None:
    for stage in RECIPE.stages.values():
        size = stage.batch_size if isinstance(stage, SftStage) else dataclasses.asdict(stage)["prompts_per_step"]
        assert size % RECIPE.launch.processes == 0


def test_where_the_paper_contradicts_itself_there_are_switches() -> None:
    tables, *_ = checked_recipe(["recipe=nemotron-cascade-2", "paper=tables", "mopd_batch=512x1"])
    mopd, rlhf, long_context = (tables.stages[name] for name in ("mopd", "rlhf", "long_context_rl"))
    assert isinstance(mopd, MopdStage)
    assert isinstance(rlhf, RlStage)
    assert isinstance(long_context, RlStage)
    assert (mopd.learning_rate, mopd.prompts_per_step, mopd.num_generations) == (3e-6, 512, 1)
    assert (rlhf.max_steps, rlhf.overlong_filtering, long_context.overlong_filtering) == (25, True, True)


def test_a_key_on_the_command_line_is_stronger_than_a_switch() -> None:
    recipe, *_ = checked_recipe(["recipe=nemotron-cascade-2", "paper=tables", "stages.mopd.learning_rate=5e-6"])
    assert recipe.stages["mopd"].learning_rate == 5e-6


def test_a_recipes_name_may_be_written_with_either_dash() -> None:
    assert checked_recipe(["recipe=nemotron_cascade_2"])[0] == RECIPE
