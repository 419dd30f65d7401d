"""A stage's identity changes with what decides its weights, and with nothing else."""

from __future__ import annotations

import pytest

from cascade.commands import checked_recipe
from cascade.identity import hash_of, stage_identity


def identity(*words: str, stage: str = "mopd", parent: str = "p", teacher: str = "t", data: str = "d") -> str:
    recipe = checked_recipe(["recipe=smoke", *words])[0]
    return stage_identity(recipe, stage, parent, {"math": teacher}, data)


@pytest.fixture(scope="module")
def unchanged() -> str:
    return identity()


@pytest.mark.parametrize(
    "words",
    [
        "stages.mopd.learning_rate=1e-4",
        "stages.mopd.max_steps=9",
        "stages.mopd.mix.math=2",
        "stages.mopd.importance=clamp",
        "stages.mopd.teacher_mix=0.5",
        "environments.math.max_completion_length=7",
        "environments.math.params.train_rows=400",
        "policy.dtype=bf16",
        "policy.max_grad_norm=2",
        "seed=1",
    ],
)
def test_what_decides_the_weights_changes_the_identity(words: str, unchanged: str) -> None:
    assert identity(words) != unchanged


@pytest.mark.parametrize(
    "words",
    [
        "launch=torchrun launch.processes=2",
        "tracking.samples_every=5",
        "evaluation.validation_rows=10",
        "stages.mopd.save_steps=1",
        "stages.mopd.gates=[{min_score:{math:0.1}}]",
        "stages.sft.learning_rate=1",
        "policy.zero_stage=3",
        "policy.rows_per_micro_batch=2",
        "rollout.batch_sequences=4",
        "run_dir=/tmp/elsewhere",
        "name=another",
    ],
)
def test_what_decides_where_and_how_often_something_is_done_does_not(words: str, unchanged: str) -> None:
    assert identity(*words.split()) == unchanged


def test_naming_the_parent_that_would_be_the_default_changes_nothing() -> None:
    assert identity(stage="if_rl") == identity("stages.if_rl.from=sft", stage="if_rl")


def test_parent_teachers_data_and_name_are_part_of_it(unchanged: str) -> None:
    others = {identity(parent="q"), identity(teacher="u"), identity(data="e"), identity(stage="if_rl")}
    assert len(others | {unchanged}) == 5


def test_a_hash_is_16_hex_digits_and_does_not_depend_on_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    assert len(hash_of({})) == 16
    with pytest.raises(TypeError, match="cannot hash a set"):
        hash_of({1})
