"""What a recipe may say of reward models, and what it is told where it says something else."""

from __future__ import annotations

import pytest

from cascade.commands import checked_recipe
from cascade.config import RewardModelStage
from cascade.errors import ConfigError
from cascade.planning.plan import plan
from cascade.stage_graph import parents
from tests.conftest import REPOSITORY

RECIPE = f"recipe={REPOSITORY}/tests/stages/reward_model.yaml"
PAIRS = "environments.pairs.params.train=pairs.jsonl"

# overrides -> what the error must say; {it} is the first of them, as an error names it
WRONG: dict[tuple[str, ...], tuple[str, ...]] = {
    ("stages.after.from=liked",): ("`stages.after.from` is `liked` in {it}, a reward model", "e.g. `mopd`"),
    ("stages.mopd.teachers.math=liked",): ("`stages.mopd.teachers.math` is `liked` in {it}, a reward model",),
    ("stages.liked.mix.math=1",): ("`stages.liked.mix.math` in {it} gives no preference pairs",),
    ("stages.if_rl.mix={pairs:1}",): ("`stages.if_rl.mix.pairs` in {it} only holds preference pairs", "reward_model"),
    ("stages.mopd.mix={pairs:1}",): ("`stages.mopd.mix.pairs` in {it} only holds preference pairs",),
    ("stages.liked.gates=[{max_drop:{preference:0.1}}]",): ("`stages.liked.gates.0.max_drop` in", "`min_score`"),
    ("stages.liked.gates=[{min_score:{preference:0.1},action:rollback}]",): ("`stages.liked.gates.0.action` in",),
    ("stages.liked.gates=[{min_score:{math:0.1}}]",): ("`stages.liked.gates.0.min_score.math` in", "preference"),
    ("stages.liked.batch_size=3", "launch=torchrun", "launch.processes=2"): ("`stages.liked.batch_size` is 3 in {it}",),
    ("stages.liked.num_generations=3",): ("reward_model stages have no such key", "rl and mopd stages have it"),
    ("stages.after.reward_model=sft",): ("`stages.after.reward_model` is `sft` in {it}", "stage names: liked"),
    ("stages.if_rl.reward_model=liked",): ("`stages.if_rl.reward_model` in {it} does nothing", "domain preference"),
    ("stages.after.overlong_penalty=true",): ("`stages.after.overlong_penalty`", "have no zero"),
    ("stages.liked.from=after",): ("circle: after <- after", "`stages.liked.from` in {it}"),
    ("stages.liked.kind=reward",): ("`stages.liked.kind` is `reward`", "`reward_model`"),
}


@pytest.mark.parametrize("overrides", WRONG)
def test_what_cannot_be_is_one_error_with_the_key_and_the_place(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_recipe([RECIPE, PAIRS, *overrides])
    for said in WRONG[overrides]:
        assert said.format(it=f"the override `{overrides[0]}`") in str(caught.value)


def test_a_stage_behind_a_reward_model_starts_from_the_reward_models_own_parent() -> None:
    recipe, order, *_ = checked_recipe([RECIPE, PAIRS, "stages.liked.from=sft"])
    assert parents(recipe)["after"] == "sft"
    assert order[-2:] == ["liked", "after"]
    recipe, *_ = checked_recipe([RECIPE, PAIRS])
    assert (parents(recipe)["liked"], parents(recipe)["after"]) == ("mopd", "mopd")
    recipe, *_ = checked_recipe([RECIPE, PAIRS, "stages.liked.from=base", "+stage@stages.second=reward_model",
                                 "stages.second.mix={pairs:1}", "stages.second.max_steps=1"])  # fmt: skip
    assert (parents(recipe)["after"], parents(recipe)["second"]) == ("base", "after")


def test_the_plan_says_what_becomes_of_a_reward_model() -> None:
    recipe, order, *_ = checked_recipe([RECIPE, PAIRS])
    lines = [line.strip() for line in plan(recipe, order).splitlines()]
    assert "5. liked (reward_model) from mopd" in lines
    assert "batch: 16 preference pairs a step, 16 a process, 480 in all, one document a row" in lines
    assert "answers of the domain preference rewarded by liked, times 0.5" in lines
    assert "evaluated on pairs of its own mix, beside a baseline of lengths alone; no stage starts from it" in lines
    (evaluations,) = (line for line in lines if line.startswith("evaluation after every stage"))
    assert evaluations.endswith("greedy; 3,900 in all")  # 5 policies x 3 environments x (60 + 200) rows


def test_an_environment_that_scores_answers_too_may_reward_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.environments.preference_pairs import PreferencePairs

    monkeypatch.setattr(PreferencePairs, "pairs_only", False)
    recipe, *_ = checked_recipe([RECIPE, PAIRS, "stages.if_rl.mix={pairs:1}"])
    assert set(recipe.stages["if_rl"].mix) == {"instruction_following", "pairs"}


def test_the_defaults_of_its_file_are_a_reward_model() -> None:
    stage = checked_recipe([RECIPE, PAIRS])[0].stages["liked"]
    assert isinstance(stage, RewardModelStage)
    assert (stage.lr_schedule, stage.freeze_router) == ("cosine", False)
