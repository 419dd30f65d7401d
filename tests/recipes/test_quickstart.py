"""The quick start's graph: the paper's order, every domain learnt and distilled, and claims about every RL stage."""

from __future__ import annotations

from benchmarks.paper_claims import RL_STAGES
from cascade.commands import checked_recipe
from cascade.config import MopdStage, RlStage
from cascade.stage_graph import parents
from cascade.types import DOMAINS

RECIPE, ORDER, ENVIRONMENTS, _ = checked_recipe(["recipe=quickstart"])
CLAIMS, *_ = checked_recipe(["recipe=paper_claims"])


def domains(name: str) -> set[str]:
    return {ENVIRONMENTS[environment].domain for environment in RECIPE.stages[name].mix}


def test_stages_are_in_the_papers_order_with_the_teacher_of_preferences_beside_them() -> None:
    main = [name for name in ORDER if name != "preference_teacher"]
    assert main == [
        *("sft", "if_rl", "multi_domain_rl", "mopd_1", "long_context_rl", "math_rl", "code_rl", "swe_rl", "mopd_2"),
    ]
    assert [parents(RECIPE)[name] for name in main] == ["base", *main[:-1]]
    assert parents(RECIPE)["preference_teacher"] == "sft"


def test_every_domain_is_demonstrated_and_distilled() -> None:
    assert domains("sft") == set(DOMAINS)
    distilled = [name for name, stage in RECIPE.stages.items() if isinstance(stage, MopdStage)]
    assert all(domains(name) == set(DOMAINS) for name in distilled)


def test_every_domain_but_none_twice_has_a_stage_of_reinforcement() -> None:
    trained = [
        domain for name, stage in RECIPE.stages.items() if isinstance(stage, RlStage) for domain in domains(name)
    ]
    assert sorted(trained) == sorted(DOMAINS)


def test_the_last_distillation_has_the_specialists_that_were_trained_after_the_one_before() -> None:
    stage = RECIPE.stages["mopd_2"]
    assert isinstance(stage, MopdStage)
    later = ORDER[ORDER.index("mopd_1") + 1 : -1]
    assert later == ["long_context_rl", "math_rl", "code_rl", "swe_rl"]
    assert {stage.teachers[domain] for name in later for domain in domains(name)} == set(later)
    assert RECIPE.teachers.resident >= len(set(stage.teachers.values()))


def test_claims_are_made_about_every_stage_of_reinforcement() -> None:
    trained = {name: domains(name) for name, stage in RECIPE.stages.items() if isinstance(stage, RlStage)}
    assert {name: set(found) for name, found in RL_STAGES.items()} == trained
    assert parents(CLAIMS)["mixed_grpo"] == parents(CLAIMS)["mopd_2"] == "swe_rl"
    assert CLAIMS.stages["mixed_grpo"].mix == CLAIMS.stages["mopd_2"].mix
    mixed, distilled = CLAIMS.stages["mixed_grpo"], CLAIMS.stages["mopd_2"]
    assert isinstance(mixed, RlStage)
    assert isinstance(distilled, MopdStage)
    assert mixed.max_steps == distilled.max_steps
