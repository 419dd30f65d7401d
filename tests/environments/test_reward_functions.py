"""Reward functions as TRL's users have them, called as TRL calls them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.attempts import attempt_at
from cascade.environments.reward_functions import RewardFunctions
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.types import Row, Score

HERE = "tests.environments.test_reward_functions"


# Functions in the shapes that TRL documents.
def by_length(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def with_column(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float]:
    boxed = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    return [1.0 if match and match[1] == truth else 0.0 for match, truth in zip(boxed, ground_truth, strict=True)]


def of_conversations(completions: list[list[dict[str, str]]], **kwargs: Any) -> list[float]:
    return [1.0 if "<think>" in completion[0]["content"] else 0.0 for completion in completions]


def only_maths(prompts: list[str], completions: list[str], task: list[str], **kwargs: Any) -> list[float | None]:
    return [1.0 if kind == "maths" else None for kind in task]


async def slowly(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    await asyncio.sleep(0.01)
    return [0.5] * len(prompts)


def by_tokens(completion_ids: list[list[int]]) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def logging(completions: list[str], log_metric: Any, log_extra: Any, **kwargs: Any) -> list[float]:
    log_metric("exclamations", sum(completion.count("!") for completion in completions))
    log_extra("seen", completions)
    return [0.0] * len(completions)


def by_step(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
    return [float(trainer_state.global_step)] * len(completions)


def too_few(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0]


def not_finite(completions: list[str], **kwargs: Any) -> list[float]:
    return [math.nan] * len(completions)


NOT_A_FUNCTION = 4


def named(*functions: str, **more: Any) -> RewardFunctions:
    return RewardFunctions(functions=tuple(f"{HERE}.{name}" for name in functions), **more)


def row_of(environment: RewardFunctions, **record: Any) -> Row:
    return Row("r/1", "math", "r", environment.read(record))


def rewards(environment: RewardFunctions, row: Row, *turns: str) -> list[float]:
    found = environment.score_group(row, [attempt_at([turn]) for turn in turns])
    assert all(isinstance(score, Score) for score in found), found
    return [score.reward for score in found if isinstance(score, Score)]


def test_text_prompts_have_text_completions_with_their_reasoning() -> None:
    environment = named("by_length")
    assert rewards(environment, row_of(environment, prompt="hi"), "abc", "<think>x</think>") == [3.0, 16.0]


def test_columns_come_by_keyword_once_a_completion() -> None:
    environment = named("with_column")
    row = row_of(environment, prompt="2+2", ground_truth="4")
    assert rewards(environment, row, r"\boxed{4}", r"\boxed{5}", "4") == [1.0, 0.0, 0.0]


def test_conversations_have_messages() -> None:
    environment = named("of_conversations")
    row = row_of(environment, prompt=[{"role": "user", "content": "2+2"}])
    assert rewards(environment, row, "<think>hm</think>4", "4") == [1.0, 0.0]


def test_several_functions_are_weighted_and_none_does_not_apply() -> None:
    environment = named("only_maths", "slowly", weights=(2.0, 1.0))
    assert rewards(environment, row_of(environment, prompt="?", task="maths"), "4") == [2.5]
    assert rewards(environment, row_of(environment, prompt="?", task="poetry"), "4") == [0.5]
    (score,) = environment.score_group(row_of(environment, prompt="?", task="maths"), [attempt_at(["4"])])
    assert isinstance(score, Score)
    assert score.parts == {"only_maths": 1.0, "slowly": 0.5}


def test_where_no_function_applies_there_is_no_reward() -> None:
    environment = named("only_maths")
    (found,) = environment.score_group(row_of(environment, prompt="?", task="poetry"), [attempt_at(["4"])])
    assert isinstance(found, VerifierFailure)
    assert found.kind is FailureKind.DATA


def test_a_function_without_keywords_gets_what_it_names() -> None:
    environment = named("by_tokens")
    row = row_of(environment, prompt="?", task="unused")
    found = environment.score_group(row, [attempt_at(["4"], token_ids=(7, 8, 9))])
    assert found == [Score(3.0, {"by_tokens": 3.0})]


def test_logged_metrics_are_parts() -> None:
    environment = named("logging")
    (score,) = environment.score_group(row_of(environment, prompt="?"), [attempt_at(["so!"])])
    assert isinstance(score, Score)
    assert score.parts == {"logging": 0.0, "exclamations": 1.0}


def test_a_reward_that_depends_on_the_step_is_told_so() -> None:
    environment = named("by_step")
    with pytest.raises(AttributeError, match="rewards do not depend on the step"):
        environment.score(row_of(environment, prompt="?"), "4")


@pytest.mark.parametrize("function", ["too_few", "not_finite"])
def test_a_function_that_answers_amiss_is_a_failure_and_no_reward(function: str) -> None:
    environment = named(function)
    with pytest.raises(VerifierFailure, match=function):
        environment.score_group(row_of(environment, prompt="?"), [attempt_at(["4"])] * 2)


def test_a_function_of_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def always(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    environment = RewardFunctions(functions=(f"{file}:always",))
    assert rewards(environment, row_of(environment, prompt="?"), "4") == [1.0]


@pytest.mark.parametrize("path", ["no_such_module.f", f"{HERE}.no_such", f"{HERE}.NOT_A_FUNCTION", "f", "none.py:f"])
def test_a_wrong_path_is_refused_before_anything_runs(path: str) -> None:
    with pytest.raises(ConfigError):
        RewardFunctions(functions=(path,))


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="functions is empty"):
        RewardFunctions()
    with pytest.raises(ConfigError, match="2 weights"):
        named("by_length", weights=(1.0, 2.0))


def test_rows_and_gold_answers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": f"q{n}", "ground_truth": "4", "gold": "\\boxed{4}"}) for n in range(9))
    )
    environment = named("with_column", train=str(path), validation_rows=2, test_rows=2, gold_column="gold")
    rows = environment.rows("train")
    assert len(rows) == 5
    assert all(environment.score(row, environment.gold(row)).reward == 1.0 for row in rows)
    with pytest.raises(DataError, match="no gold answer"):
        named("by_length").gold(rows[0])
    with pytest.raises(DataError, match="no `prompt`"):
        environment.read({"ground_truth": "4"})
