"""Scores completions in a file against the rows of another, with no model and no recipe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from cascade.atomic import write_text
from cascade.data.datasets import NumberedRow, load_numbered
from cascade.environments.attempts import attempt_of
from cascade.environments.row_source import content_hash, folder_of
from cascade.errors import ConfigError, DataError
from cascade.ports import Environment, ReadsPaths, ReadsRecords
from cascade.types import Attempt, Row, Verdict
from cascade.verification.jobs import Job, Verifiers


def score_files(
    environment: Environment, name: str, rows: str, completions: str, verifiers: Verifiers
) -> list[Verdict]:
    """The verdict on every completion, in the order of the file.

    Neighbouring completions of equal rows are one group, for environments that compare attempts. A malformed row or
    completion has a verdict too, with the status `data`.

    Raises:
        ConfigError: the environment reads no rows.
        DataError: a file cannot be read, or the two are not of one length.
    """
    if not isinstance(environment, ReadsRecords):
        raise ConfigError(f"{name} reads no rows.", "Give its class a method `read(record)`.")
    records, written = load_numbered(rows), load_numbered(completions)
    if len(records) != len(written):
        raise DataError(
            f"{rows} has {len(records)} rows and {completions} has {len(written)} completions.",
            "Give one completion a row, in the same order.",
        )
    verdicts: list[Verdict | None] = [None] * len(records)
    places: list[list[int]] = []
    jobs: list[Job] = []
    folder = folder_of(rows)
    pairs = (_pair(environment, name, folder, *lines) for lines in zip(records, written, strict=True))
    for _, group in groupby(enumerate(pairs), key=lambda item: _group_key(item[1])):
        found = list(group)
        for place, pair in found:
            if isinstance(pair, Verdict):
                verdicts[place] = pair
        good = [(place, pair) for place, pair in found if not isinstance(pair, Verdict)]
        if good:
            places.append([place for place, _ in good])
            jobs.append(Job(name, good[0][1][0], tuple(attempt for _, (_, attempt) in good)))
    for at, found in zip(places, verifiers.verify(jobs), strict=True):
        for place, verdict in zip(at, found, strict=True):
            verdicts[place] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def write_verdicts(verdicts: Sequence[Verdict], out: Path) -> str:
    """Writes one JSON object a line, and returns what they come to in one line."""
    write_text(out, "".join(json.dumps(line) + "\n" for line in map(_line, verdicts)))
    rewards = [verdict.score.reward for verdict in verdicts if verdict.score]
    mean = f"mean reward {sum(rewards) / len(rewards):.4f}" if rewards else "no rewards"
    counts = Counter(verdict.status for verdict in verdicts)
    return f"{out}  {len(verdicts)} verdicts, {mean}  {'  '.join(f'{key} {n}' for key, n in sorted(counts.items()))}"


def _line(verdict: Verdict) -> Mapping[str, Any]:
    score = verdict.score
    scored = {"reward": score.reward if score else None, "parts": dict(score.parts) if score else {}}
    said = {"masked": bool(score and score.masked), "status": verdict.status, "reason": verdict.reason}
    return {**scored, **said, "wall_s": round(verdict.wall_s, 6)}


def _pair(
    environment: ReadsRecords, name: str, folder: Path | None, record: NumberedRow, completion: NumberedRow
) -> tuple[Row, Attempt] | Verdict:
    """A row and the attempt at it, or the verdict on a malformed one."""
    try:
        if record[1] is None:
            raise DataError(f"Row {record[0]} is not a JSON object.", "Repair it.")
        data = environment.read(record[1])
        identity = f"{name}/{content_hash(data)}"
        data = environment.placed(data, folder) if isinstance(environment, ReadsPaths) else data
        row = Row(identity, getattr(environment, "domain", ""), name, data)
        if completion[1] is None or "completion" not in completion[1]:
            raise DataError(f"Line {completion[0]} has no `completion`.", "Give it, as text or messages.")
        return row, attempt_of(completion[1]["completion"])
    except DataError as error:
        return Verdict(None, "data", str(error))


def _group_key(pair: tuple[Row, Attempt] | Verdict) -> str:
    return "" if isinstance(pair, Verdict) else pair[0].id
