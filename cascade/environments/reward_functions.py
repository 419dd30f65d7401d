"""Reward functions and rows as TRL has them: `f(prompts, completions, completion_ids, **columns) -> [float | None]`.

The conventions are those of TRL's GRPOTrainer (trl/trainer/grpo_trainer.py, `_calculate_rewards`, 1.13): completions of
text prompts are texts, those of conversations are lists of messages; every other column comes by keyword, one value a
completion; functions may be async; None means that a function does not apply to a completion.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cascade.environments.records import messages_of
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.types import Attempt, Row, Score

OWN_COLUMNS = ("prompt", "completion", "completion_ids")  # not handed over by keyword

RewardFunction = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class RewardFunctions(RowEnvironment):
    """Rows with a `prompt` and any other columns, judged by functions of the user's own.

    A function is named by its dotted path, or as `FILE.py:NAME`. The reward is the weighted sum over the functions
    that apply. What TRL logs by `log_metric` becomes a part of the score. There is no `trainer_state`: a reward that
    changes in the course of training would make runs impossible to repeat.
    """

    name: str = "reward_functions"
    domain: str = "preference"
    functions: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None  # None: 1 each
    gold_column: str | None = None  # the column that holds an answer of full reward

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.functions:
            raise ConfigError("functions is empty.", "Name at least one, e.g. `functions: [my_rewards.correct]`.")
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ConfigError(f"There are {len(self.weights)} weights.", f"Give {len(self.functions)}, one a function.")
        for path in self.functions:
            load_function(path)

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """All columns as they are. Raises `DataError` for a row without a prompt."""
        if messages_of(record) is None:
            raise DataError("The row has no `prompt`.", "Give text, or a list of messages.")
        return {"columns": dict(record)}

    def gold(self, row: Row) -> str:
        """The text in `gold_column`."""
        if self.gold_column is None or not isinstance(row.data["columns"].get(self.gold_column), str):
            raise DataError(f"{row.id} has no gold answer.", "Name the column that holds one as `gold_column`.")
        return row.data["columns"][self.gold_column]

    def score(self, row: Row, answer: str) -> Score:
        """The reward of one answer alone."""
        found = self.score_group(row, [Attempt((answer,), ("",), (answer,))])[0]
        if isinstance(found, VerifierFailure):
            raise found
        return found

    def score_group(self, row: Row, attempts: Sequence[Attempt]) -> list[Score | VerifierFailure]:
        """Every function is called once with all attempts. Raises `VerifierFailure` where one answers amiss."""
        columns = row.data["columns"]
        conversational = not isinstance(columns.get("prompt"), str)
        prompts = [row.data["messages"] if conversational else columns["prompt"]] * len(attempts)
        completions = [_messages(attempt) if conversational else attempt.turns[-1] for attempt in attempts]
        logged: dict[str, float] = {}
        keywords: dict[str, Any] = {key: [columns[key]] * len(attempts) for key in columns if key not in OWN_COLUMNS}
        keywords |= {"trainer_state": _NoTrainerState(), "log_extra": _ignore, "log_metric": logged.__setitem__}
        ids = [list(attempt.token_ids) for attempt in attempts]
        given = {"prompts": prompts, "completions": completions, "completion_ids": ids, **keywords}
        returned = asyncio.run(_all([_call(load_function(path), given) for path in self.functions]))
        rewards = {
            path: _checked(path, found, len(attempts)) for path, found in zip(self.functions, returned, strict=True)
        }
        return [self._sum({path: found[i] for path, found in rewards.items()}, logged) for i in range(len(attempts))]

    def _sum(self, rewards: Mapping[str, float | None], logged: Mapping[str, float]) -> Score | VerifierFailure:
        applying = {path: reward for path, reward in rewards.items() if reward is not None}
        if not applying:
            return VerifierFailure(FailureKind.DATA, "no reward function applies")
        weights = dict(zip(self.functions, self.weights or (1.0,) * len(self.functions), strict=True))
        parts = {path.replace(":", ".").rpartition(".")[2]: reward for path, reward in applying.items()}
        total = sum(weights[path] * reward for path, reward in applying.items())
        return Score(total, {**parts, **{key: float(value) for key, value in logged.items()}})


@functools.cache
def load_function(path: str) -> RewardFunction:
    """The function of a dotted path or of `FILE.py:NAME`. Raises `ConfigError` when there is none."""
    file, colon, name = path.rpartition(":")
    if not colon:
        file, _, name = path.rpartition(".")
    try:
        module = _from_file(file) if file.endswith(".py") else importlib.import_module(file)
        found = getattr(module, name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise ConfigError(f"The reward function {path} cannot be loaded: {error}.", "Correct the path.") from error
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__}.", "Name a function.")
    return found


def _from_file(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _messages(attempt: Attempt) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": turn} for turn in attempt.turns]


async def _call(function: RewardFunction, given: Mapping[str, Any]) -> Any:
    """What a function returns, of the keywords that it takes."""
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        given = {parameter.name: given[parameter.name] for parameter in parameters if parameter.name in given}
    returned = function(**given)
    return await returned if isinstance(returned, Awaitable) else returned


async def _all(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*calls))


def _checked(path: str, returned: Any, count: int) -> list[float | None]:
    """One finite number or None a completion. Raises `VerifierFailure` for anything else."""
    if not isinstance(returned, Sequence) or len(returned) != count:
        said = f"{path} returned {str(returned)[:80]} for {count} completions"
        raise VerifierFailure(FailureKind.DATA, f"{said}: a list of as many numbers or None is wanted")
    rewards = [None if value is None else float(value) for value in returned]
    if any(value is not None and not math.isfinite(value) for value in rewards):
        raise VerifierFailure(FailureKind.DATA, f"{path} returned a number that is not finite: {rewards}")
    return rewards


def _ignore(column: str, values: Sequence[Any]) -> None:
    """TRL's `log_extra` adds a column to its table of completions; rollouts are kept whole here."""


class _NoTrainerState:
    """Stands where TRL hands over its trainer's state, and says so when it is asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"there is no trainer_state.{name} here: rewards do not depend on the step")
