"""The tasks of reasoning-gym (Stojanovski et al. 2025): rows drawn from a seed or brought, scored by the tasks."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.environments.boxed import last_boxed
from cascade.environments.procedural import split_of
from cascade.environments.reasoning_gym_answers import WITHOUT_GOLD, check_data, task_score, usable_gold
from cascade.environments.row_source import RowEnvironment, content_hash
from cascade.errors import ConfigError, DataError
from cascade.naming import nearest
from cascade.types import Message, Row, Score, Split

INSTRUCTION = "Put your final answer, and nothing else, between <answer> and </answer>."
MADE_TRAIN_ROWS = 4000  # where `tasks` are given and `train_rows` is not
FORM_ALONE = 0.05  # what some tasks give an answer for being of the right form
EXTRA = 'pip install "cascade-rl[reasoning-gym]"'


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(RowEnvironment):
    """Rows made of `tasks`, e.g. `{chain_sum: {max_terms: 3}, gcd: {weight: 2}}`, or brought in NeMo-Gym's form
    (`question`, `answer`, `metadata.source_dataset`).

    The split of a made row follows from its content, so no two splits share one; validation and test rows are the
    same for every seed. A task's own score counts as 1 from `threshold` on, else as 0; with `binary: false` it is the
    reward, except what is given for form alone. Tasks that have no gold answer are refused unless
    `allow_without_gold`: they cannot be demonstrated, nor be checked with `--check-gold`.
    """

    name: str = "reasoning_gym"
    domain: str = "math"
    test_rows: int = 256
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    binary: bool = True
    threshold: float = 1.0
    allow_without_gold: bool = False
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ConfigError("The package reasoning-gym is not installed.", f"Run `{EXTRA}`.")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}.", "Choose one above 0 and up to 1.")
        if self.tasks and (self.train or self.validation or self.test):
            raise ConfigError("There are both `tasks` and files of rows.", "Give one of them.")
        for task, params in self.tasks.items():
            self._check_task(task, params)

    def rows(self, split: Split) -> Sequence[Row]:
        return self._made(split) if self.tasks else super().rows(split)

    def fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        question, answer, metadata = (record.get(key) for key in ("question", "answer", "metadata"))
        if isinstance(metadata, str):
            try:
                metadata = json.loads(metadata)
            except ValueError as error:
                raise DataError(f"`metadata` is not JSON: {error}.", "Give an object.") from None
        if not isinstance(question, str) or not isinstance(metadata, Mapping):
            raise DataError("No `question`, or no `metadata`.", "Give both, as reasoning-gym makes them.")
        task = metadata.get("source_dataset")
        if not isinstance(task, str) or task not in _known():
            raise DataError(f"reasoning-gym has no task {task!r:.60}.", "Name one in `metadata.source_dataset`.")
        if (answer is None or task in WITHOUT_GOLD) and not self.allow_without_gold:
            raise DataError(f"Rows of {task} have no gold answer.", "Set `allow_without_gold` to take them.")
        if answer is not None and not isinstance(answer, str):
            raise DataError(f"The answer is {type(answer).__name__}.", "Give text.")
        check_data(task, answer, metadata)
        return {"question": question, "answer": answer, "metadata": dict(metadata)}

    def ask(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": f"{row.data['question']}\n\n{INSTRUCTION}"}]

    def gold(self, row: Row) -> str:
        if not usable_gold(row.data["metadata"]["source_dataset"], row.data["answer"]):
            raise DataError(f"{row.id} has no gold answer.", "Do without demonstrations of it.")
        return f"<answer>{row.data['answer']}</answer>"

    def score(self, row: Row, answer: str) -> Score:
        """The task's own score of what stands in `<answer>`, made 0 or 1 unless `binary` is false.

        `score`: as the task gave it. `tagged`: there was an `<answer>`.
        """
        tagged, found = extracted(answer)
        task = row.data["metadata"]["source_dataset"]
        params = {key: value for key, value in self.tasks.get(task, {}).items() if key != "weight"}
        own = task_score(task, found, row.data, params)
        graded = own if own > FORM_ALONE else 0.0
        reward = float(own >= self.threshold - 1e-9) if self.binary else graded
        return Score(reward, {"correct": float(own >= 1 - 1e-9), "score": own, "tagged": float(tagged)})

    def _made(self, split: Split) -> Sequence[Row]:
        import reasoning_gym

        train_rows = self.train_rows or MADE_TRAIN_ROWS
        wanted = {"train": train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]
        rng = random.Random(f"{self.seed if split == 'train' else ''}/{split}")
        weights = {task: params.get("weight", 1) for task, params in self.tasks.items()}
        draws = 1000 + 200 * wanted
        made = {}
        for task, params in self.tasks.items():
            own = {key: value for key, value in params.items() if key != "weight"}
            made[task] = reasoning_gym.create_dataset(task, **{"seed": rng.randrange(2**31), "size": draws, **own})
        indices = {task: itertools.count() for task in made}
        found: dict[str, Row] = {}
        for _ in range(draws):
            if len(found) >= wanted:
                return tuple(found.values())
            (task,) = rng.choices(list(weights), list(weights.values()))
            entry = made[task][next(indices[task])]
            key = content_hash({"task": task, "question": entry["question"]})
            gold = usable_gold(task, entry["answer"]) or self.allow_without_gold
            if gold and split_of(key) == split:
                data = self.read(json.loads(json.dumps(entry, default=str)))
                found.setdefault(key, Row(f"{self.name}/{key}", self.domain, self.name, data))
        raise DataError(
            f"{self.name} found only {len(found)} of {wanted} distinct {split} rows.",
            f"Ask for fewer {split}_rows, or widen the parameters of its tasks.",
        )

    def _check_task(self, task: str, params: Mapping[str, Any]) -> None:
        import reasoning_gym

        if task not in _known():
            raise ConfigError(f"reasoning-gym has no task `{task}`.", nearest(task, _known(), "task"))
        if task in WITHOUT_GOLD and not self.allow_without_gold:
            raise ConfigError(
                f"{task} has no gold answers, so nothing shows that its rows can be solved.",
                "Leave it out, or set `allow_without_gold`.",
            )
        weight = params.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight <= 0:
            raise ConfigError(f"The weight of {task} is {weight!r}.", "Give a number above 0.")
        own = {key: value for key, value in params.items() if key != "weight"}
        try:
            reasoning_gym.create_dataset(task, **{"seed": 0, "size": 1, **own})
        except (TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ConfigError(f"The parameters of {task} do not fit it: {error}.", "Correct them.") from None


def extracted(text: str) -> tuple[bool, str]:
    r"""Whether an answer is tagged, and the answer: in the last `<answer>`, else in the last `\boxed{}`, else all."""
    found, end = None, 0
    while (start := text.find("<answer>", end)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        found = text[start + len("<answer>") : end]
    if found is not None:
        return True, found.strip()
    return False, (last_boxed(text) or text).strip()


def _known() -> set[str]:
    from reasoning_gym.factory import DATASETS

    return set(DATASETS) - {"composite"}
