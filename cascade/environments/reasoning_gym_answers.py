"""What a reasoning-gym task makes of an answer: its own score, where it can be trusted with text that anybody wrote.

Facts about reasoning-gym 0.1.25 stand here. Nine tasks hand an answer to `eval` or to sympy's parser, which is `eval`
too: they see only answers that are literals, sums, or formulas of known names. One takes any text for right.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cascade.environments.math_answer import costly
from cascade.errors import DataError, FailureKind, VerifierFailure

MAX_ANSWER = 50_000  # characters; the largest boards have a few thousand
WITHOUT_GOLD = ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")

_EVALUATED = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_SUMS = ("countdown", "puzzle24")
_FORMULAS = ("intermediate_integration", "polynomial_multiplication", "simple_integration")
_AS_TEXT = ("game_of_life_halting",)  # "False" is true to it, as every text is
_BOARDS = ("arc_agi", "rearc")  # compare with tuples, which JSON has as lists

_SUM = re.compile(r"[0-9+\-*/() ]{1,300}")
_FORMULA = re.compile(r"[0-9A-Za-z+\-*/^()., \t\n]{1,1000}")
_NAME = re.compile(r"[A-Za-z]+")
_NAMES = {"a" + f + h for f in ("sin", "cos", "tan") for h in ("", "h")} | {"sec", "csc", "cot", "exp", "log", "ln"}
_NAMES |= {f + h for f in ("sin", "cos", "tan") for h in ("", "h")} | {"sqrt", "Abs", "pi"}
_NOT_A_NUMBER = re.compile(r"nan|inf", re.IGNORECASE)
_WORDS = re.compile(r"[A-DF-HK-Za-df-hk-z]")  # letters that no number has
_BITS = re.compile(r"[0-9a-fA-FxX+\-*/%&|^~<>() ]{1,500}")


def task_score(task: str, answer: str, entry: Mapping[str, Any], params: Mapping[str, Any]) -> float:
    """The score from 0 to 1 that a task gives an answer; 0 for an answer that it cannot read, or must not be shown.

    Raises `VerifierFailure` where the task cannot read the row's own answer either.
    """
    if len(answer) > MAX_ANSWER or "\x00" in answer:
        return 0.0
    if _NOT_A_NUMBER.search(answer) and not _WORDS.search(str(entry["answer"] or "words")):
        return 0.0  # `complex_arithmetic` finds it as near as can be
    if task in _AS_TEXT:
        return float(answer.strip().lower() == str(entry["answer"]).strip().lower())
    if task in _EVALUATED and not _is_literal(answer):
        return float(answer.strip() in _accepted(entry))
    if task in _SUMS and not _uses(answer, entry["metadata"].get("numbers", [])):
        return 0.0
    if task in _FORMULAS and not _is_formula(answer):
        return 0.0
    try:
        score = float(scorer(task, json.dumps(params, sort_keys=True))(answer=answer, entry=_restored(task, entry)))
    except Exception:  # noqa: BLE001  105 tasks raise what they like at text they cannot read
        _check_row(task, entry, params)
        return 0.0
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


def usable_gold(task: str, answer: str | None) -> bool:
    """Whether a row's gold answer would score: some integrals are given as integrals that nobody worked out."""
    return answer is not None and task not in WITHOUT_GOLD and (task not in _FORMULAS or _is_formula(answer))


def check_data(task: str, answer: str | None, metadata: Mapping[str, Any]) -> None:
    """Raises `DataError` for a row whose data a task would run as code, and that is more than data."""
    numbers, problem = str(answer), str(metadata.get("problem"))
    if (
        (task == "number_sorting" and not _is_literal(numbers))
        or (task == "bitwise_arithmetic" and (not _BITS.fullmatch(problem) or "**" in problem))
        or (task == "polynomial_multiplication" and not _is_formula(numbers))
        or (task.endswith("_integration") and not _is_formula(str(metadata.get("integrand"))))
    ):
        raise DataError(f"The data of a {task} row is not of the form that the task makes.", "Leave it out.")


@functools.lru_cache(maxsize=256)
def scorer(task: str, params: str) -> Callable[..., float]:
    """`score_answer` of a task made with parameters, as JSON. Loading word lists and boards may take a second."""
    import reasoning_gym

    return reasoning_gym.create_dataset(task, **json.loads(params)).score_answer


def _check_row(task: str, entry: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    if entry["answer"] is None:
        return
    try:
        scorer(task, json.dumps(params, sort_keys=True))(answer=entry["answer"], entry=_restored(task, entry))
    except Exception as error:  # noqa: BLE001  see `task_score`
        raise VerifierFailure(FailureKind.DATA, f"{task} cannot score its own answer: {error!r:.300}") from None


def _restored(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as the task made it, before it went through JSON."""
    if task not in _BOARDS or "output" not in entry["metadata"]:
        return dict(entry)
    output = tuple(tuple(line) for line in entry["metadata"]["output"])
    return {**entry, "metadata": {**entry["metadata"], "output": output}}


def _accepted(entry: Mapping[str, Any]) -> list[str]:
    return [str(text).strip() for text in entry["metadata"].get("valid_answers") or [entry["answer"]]]


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return True


def _uses(answer: str, numbers: list[int]) -> bool:
    """Whether an answer is a sum of just these numbers. `puzzle24` does not look at which numbers it was given."""
    if not _SUM.fullmatch(answer.strip()) or "**" in answer or "//" in answer:
        return False
    return sorted(int(number) for number in re.findall(r"[0-9]+", answer)) == sorted(numbers)


def _is_formula(text: str) -> bool:
    """Whether text is a formula of numbers, single letters and elementary functions, and cheap to work out.

    Unevaluated integrals are none: their derivative is the integrand.
    """
    if not _FORMULA.fullmatch(text) or re.search(r"\.\s*[A-Za-z]", text) or costly(text):
        return False
    return all(len(name) == 1 or name in _NAMES for name in _NAME.findall(text))
