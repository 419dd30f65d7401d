"""Every row's gold answer must score 1: otherwise the verifier is wrong, or the row is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cascade.environments.attempts import attempt_at, attempt_of
from cascade.errors import DataError
from cascade.ports import Environment, ScoresEpisodes
from cascade.prompts import Demonstrates
from cascade.types import Attempt, Row, Split, Verdict
from cascade.verification.jobs import Job, Verifiers

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class GoldCheck:
    """How the gold answers of one split did, e.g. 300 of 300."""

    environment: str
    split: Split
    rows: int
    without: int  # rows that have no gold answer
    wrong: list[tuple[Row, Verdict]]  # rows whose gold answer does not score 1

    def __str__(self) -> str:
        right = self.rows - self.without - len(self.wrong)
        none = f"; {self.without} rows have none" if self.without else ""
        said = f"{self.environment:<24} {self.split:<12} {right}/{self.rows - self.without} gold answers score 1{none}"
        return said + "".join(f"\n  {row.id}: {_why(verdict)}" for row, verdict in self.wrong[:3])


def check_gold(environments: Mapping[str, Environment], verifiers: Verifiers) -> Iterator[GoldCheck]:
    """The gold answers of every split of every environment, scored as the model's answers are."""
    for name, environment in environments.items():
        for split in SPLITS:
            rows = environment.rows(split)
            golds = [_gold(environment, row) for row in rows]
            having = [(row, gold) for row, gold in zip(rows, golds, strict=True) if gold is not None]
            verdicts = verifiers.verify([Job(name, row, (gold,)) for row, gold in having])
            wrong = [
                (row, verdict)
                for (row, _), (verdict,) in zip(having, verdicts, strict=True)
                if verdict.score is None or verdict.score.reward != 1.0
            ]
            yield GoldCheck(name, split, len(rows), len(rows) - len(having), wrong)


def _gold(environment: Environment, row: Row) -> Attempt | None:
    """The whole demonstration where episodes are judged, else the gold answer; None where the row has none."""
    try:
        if isinstance(environment, ScoresEpisodes) and isinstance(environment, Demonstrates):
            return attempt_of(environment.demonstration(row)["messages"][len(environment.messages(row)) :])
        return attempt_at([environment.gold(row)])
    except DataError:
        return None


def _why(verdict: Verdict) -> str:
    return f"reward {verdict.score.reward:g} {dict(verdict.score.parts)}" if verdict.score else verdict.reason
