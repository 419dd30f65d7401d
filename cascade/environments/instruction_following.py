"""instruction_following: verifiable constraints on an answer, as IFEval, IFBench and NVIDIA's rows have them."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cascade.environments.constraint_rows import constrained, gold_answer
from cascade.environments.constraint_templates import DEFAULT_IDS, TEMPLATES
from cascade.environments.constraints import Check, constraint, follows, loose_variants
from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.naming import nearest
from cascade.types import Row, Score

LONGEST = 262_144  # characters of an answer that is read: four times what 16,384 tokens of English come to
GRADINGS = ("binary", "fraction")
_INSTRUCTIONS = ("instruction_id_list", "instruction_id", "ground_truth")


@dataclass(frozen=True, kw_only=True)
class InstructionFollowing(RowEnvironment):
    """Rows with `instruction_id_list` and `kwargs`: of IFEval, IFBench, NeMo-Gym, or open-instruct's `ground_truth`.

    `grading`: 1 for an answer that follows all instructions (`binary`), or the share it follows (`fraction`); a row's
    own `grading_mode` comes first. `strictness`: the answer as it is (`strict`), or IFEval's eight variants of it
    (`loose`).

    `prompts` names a source of prompts without constraints (`prompt`, `messages` or `question`): each becomes a
    training row with `min_constraints` to `max_constraints` constraints drawn by `constraints_seed` and the prompt,
    so that the rows and their splits are the same for every seed of a run. `constraint_ids` are the kinds to draw
    from; by default IFEval's and open-instruct's, since IFBench's are there to be unseen in training.
    """

    name: str = "instruction_following"
    domain: str = "instruction_following"
    grading: Literal["binary", "fraction"] = "binary"
    strictness: Literal["strict", "loose"] = "strict"
    prompts: str | None = None
    min_constraints: int = 1
    max_constraints: int = 3
    constraints_seed: int = 0
    constraint_ids: tuple[str, ...] = DEFAULT_IDS
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_constraints <= self.max_constraints:
            raise ConfigError(
                f"min_constraints is {self.min_constraints} and max_constraints {self.max_constraints}.",
                "Give 1 <= min_constraints <= max_constraints.",
            )
        if unknown := [key for key in self.constraint_ids if key not in TEMPLATES]:
            raise ConfigError(
                f"constraint_ids has `{unknown[0]}`, which no prompt can be given.",
                nearest(unknown[0], sorted(TEMPLATES), "constraint"),
            )
        if self.max_constraints > len(self.constraint_ids):
            raise ConfigError(
                f"max_constraints is {self.max_constraints} of {len(self.constraint_ids)} constraint_ids.",
                "Lower it, or name more of them.",
            )

    def fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """`instruction_id_list`, `kwargs` (without what is None), and `grading_mode` where the row has one."""
        ids, given = _instructions(record)
        for instruction_id, arguments in zip(ids, given, strict=True):
            constraint(instruction_id, arguments)
        found: dict[str, Any] = {"instruction_id_list": ids, "kwargs": given}
        if (mode := record.get("grading_mode")) is not None:
            if mode not in GRADINGS:
                raise DataError(f"`grading_mode` is {str(mode)[:60]!r}.", f"Give one of {', '.join(GRADINGS)}.")
            found["grading_mode"] = mode
        return found

    def gold(self, row: Row) -> str:
        """An answer that is put together to follow every instruction. Raises `DataError` where that fails."""
        answer = gold_answer(row.data["instruction_id_list"], row.data["kwargs"])
        if answer is None:
            raise DataError(
                f"{row.id} has no known answer.", "Instructions of these kinds cannot be met by filler text."
            )
        return answer

    def score(self, row: Row, answer: str) -> Score:
        """The reward, with both shares (`strict`, `loose`) and every instruction by its id as parts.

        A second instruction of one kind is `ID#2`. Raises `VerifierFailure` of kind `data` for a row that cannot be
        checked.
        """
        if len(answer) > LONGEST:
            return Score(0.0, {"strict": 0.0, "loose": 0.0, "too_long": 1.0})
        if not answer.strip():
            return Score(0.0, {"strict": 0.0, "loose": 0.0, "empty": 1.0})
        ids: Sequence[str] = row.data["instruction_id_list"]
        checks = _checks(ids, row.data["kwargs"])
        strict = [follows(key, check, answer) for key, check in zip(ids, checks, strict=True)]
        variants = loose_variants(answer)[1:] if not all(strict) else []
        loose = [
            passed or any(follows(key, check, variant) for variant in variants)
            for key, check, passed in zip(ids, checks, strict, strict=True)
        ]
        chosen = strict if self.strictness == "strict" else loose
        share = sum(chosen) / len(chosen)
        binary = row.data.get("grading_mode", self.grading) == "binary"
        parts = {"strict": sum(strict) / len(strict), "loose": sum(loose) / len(loose)}
        for number, (key, passed) in enumerate(zip(ids, chosen, strict=True)):
            again = list(ids[: number + 1]).count(key)
            parts[key if again == 1 else f"{key}#{again}"] = float(passed)
        return Score(float(share == 1) if binary else share, parts)

    def read(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record as `Row.data`; where `prompts` is given, one without instructions gets some."""
        if self.prompts and not any(key in record for key in _INSTRUCTIONS):
            counts = (self.min_constraints, self.max_constraints)
            record = constrained(record, ids=self.constraint_ids, counts=counts, seed=self.constraints_seed)
        return super().read(record)

    @functools.cached_property
    def _pool(self) -> dict[str, Row]:
        named = [source for source in (self.train, self.prompts) if source]
        return {key: row for source in named for key, row in self._source(source, "train").items()}


def _checks(ids: Sequence[str], given: Sequence[Mapping[str, Any]]) -> list[Check]:
    try:
        return [constraint(key, arguments) for key, arguments in zip(ids, given, strict=True)]
    except (DataError, ConfigError) as error:
        raise VerifierFailure(FailureKind.DATA, str(error)) from None


def _instructions(record: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Ids and arguments of a record, one for one. Raises `DataError`."""
    if "instruction_id_list" not in record and isinstance(record.get("ground_truth"), str | list):
        record = _ground_truth(record["ground_truth"])
    ids = _plain(record.get("instruction_id_list", record.get("instruction_id")))
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise DataError("`instruction_id_list` is not a list of names.", 'Give e.g. ["punctuation:no_comma"].')
    given = _plain(record.get("kwargs"))
    if given is None:
        given = [None] * len(ids)
    if not isinstance(given, list) or len(given) != len(ids):
        raise DataError(f"`kwargs` is not a list of {len(ids)} objects.", "Give one for every instruction.")
    arguments = [_plain(each) or {} for each in given]
    if not all(isinstance(each, Mapping) for each in arguments):
        raise DataError("`kwargs` holds something that is no object.", "Give {} or null where there are none.")
    return list(ids), [{key: value for key, value in each.items() if value is not None} for each in arguments]


def _ground_truth(value: Any) -> Mapping[str, Any]:
    """open-instruct's column: a list of one object with `instruction_id` and `kwargs`, as JSON or Python text."""
    found = _plain(value)
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(found, Mapping):
        raise DataError("`ground_truth` holds no instructions.", "Give `instruction_id_list` and `kwargs`.")
    return found


def _plain(value: Any) -> Any:
    """A value that some rows have as JSON text, and others as the text of a Python literal."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise DataError(f"{value[:60]!r} is neither JSON nor a Python literal.", "Give lists and objects.") from None
