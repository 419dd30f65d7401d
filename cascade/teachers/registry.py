"""The registry of a run: every checkpoint with its lineage, scores, gates and events. One process writes, any read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade.atomic import json_text
from cascade.errors import RegistryError
from cascade.teachers.best import Best, Candidate, best_of, nothing_scored
from cascade.teachers.database import connect, transaction
from cascade.teachers.weights import folder_problems, weights_sha256
from cascade.types import Checkpoint, GateResult, Scores, Split, SplitScore

__all__ = ["Best", "Event", "Registry", "weights_sha256"]

COLUMNS = tuple(f.name for f in fields(Checkpoint))
UPSERT = (
    f"INSERT INTO checkpoints ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT (identity) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)

Checkpoints = list[Checkpoint]  # `Registry.list` hides the builtin inside the class
Events = list["Event"]
Gates = list[GateResult]
Sentences = list[str]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, e.g. `Event("2026-11-21T10:00:00+00:00", "if_rl", "resumed", {"step": 60})`."""

    time: str  # ISO 8601, UTC
    stage: str
    kind: str
    detail: Mapping[str, Any]


class Registry:
    """`with Registry(run.registry) as registry:`; made when missing. Raises `RegistryError` when it is no registry."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._database = connect(self.path)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def add(self, checkpoint: Checkpoint) -> None:
        """Enter a checkpoint; one of the same identity is replaced and keeps its place in the order."""
        values = [getattr(checkpoint, name) for name in COLUMNS]
        with transaction(self._database) as database:
            database.execute(UPSERT, [json_text(v) if isinstance(v, Mapping) else v for v in values])

    def get(self, identity: str) -> Checkpoint:
        """The checkpoint of an identity or of a prefix only it has. Raises `RegistryError` on none and on several."""
        every = self.list()
        exact = [c for c in every if c.identity == identity]
        found = exact or [c for c in every if identity and c.identity.startswith(identity)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(f"{c.identity[:12]} ({c.stage} step {c.step})" for c in found or every) or "none yet"
        what = f"names {len(found)} checkpoints" if found else "names no checkpoint"
        raise RegistryError(f"'{identity}' {what} in {self.path}.", f"Name one of these: {listed}.")

    def by_stage(self, stage: str) -> Checkpoints:
        """The checkpoints of a stage, earliest first."""
        return [c for c in self.list() if c.stage == stage]

    def list(self) -> Checkpoints:
        """All checkpoints in order of registration."""
        rows = self._database.execute("SELECT * FROM checkpoints ORDER BY position").fetchall()
        return [_checkpoint(row) for row in rows]

    def count(self) -> int:
        """How many checkpoints there are."""
        return self._database.execute("SELECT COUNT(*) FROM checkpoints").fetchone()[0]

    def lineage(self, identity: str) -> Checkpoints:
        """The checkpoint and what it came from, root first. Raises `RegistryError` on a missing parent or a circle."""
        chain = [self.get(identity)]
        while (parent := chain[-1].parent) is not None:
            if parent in {c.identity for c in chain}:
                raise RegistryError(f"The lineage of {identity} runs in a circle at {parent}.", "Run its stages again.")
            chain.append(self.get(parent))
        return chain[::-1]

    def record_scores(self, identity: str, scores: Scores, evaluation_hash: str) -> None:
        """Enter scores; those of the same split and domain are replaced. Raises `RegistryError` on one that is NaN."""
        known = self.get(identity).identity
        rows = [
            (known, split, domain, s.mean, s.stderr, s.n, s.k, s.pass_at_k, evaluation_hash)
            for split, by_domain in scores.items()
            for domain, s in by_domain.items()
        ]
        for _, split, domain, mean, stderr, *_ in rows:
            if not (math.isfinite(mean) and math.isfinite(stderr)):
                raise RegistryError(
                    f"The {split} score of {known[:12]} on {domain} is {mean} ± {stderr}.",
                    "Look for failed rollouts in evaluation.json and evaluate again.",
                )
        with transaction(self._database) as database:
            database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def scores(self, identity: str) -> Scores:
        """All scores of a checkpoint, split -> domain -> score."""
        found: dict[str, dict[str, SplitScore]] = {}
        for row in self._database.execute("SELECT * FROM scores WHERE identity = ?", [self.get(identity).identity]):
            found.setdefault(row["split"], {})[row["domain"]] = _score(row)
        return found

    def evaluated(self, identity: str, evaluation_hash: str) -> bool:
        """Whether the scores of a checkpoint come from this very evaluation, and from no other."""
        found = self._database.execute("SELECT DISTINCT evaluation_hash FROM scores WHERE identity = ?", [identity])
        return [row["evaluation_hash"] for row in found] == [evaluation_hash]

    def record_gates(self, identity: str, gates: Sequence[GateResult]) -> None:
        """Enter the gate results of a checkpoint in place of earlier ones."""
        known = self.get(identity).identity
        with transaction(self._database) as database:
            database.execute("DELETE FROM gates WHERE identity = ?", [known])
            rows = [(known, *astuple(gate)) for gate in gates]
            database.executemany("INSERT INTO gates VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def gates(self, identity: str) -> Gates:
        """The gate results of a checkpoint; a value that was not finite is NaN."""
        columns = "rule, domain, threshold, value, passed, action"
        known = self.get(identity).identity
        rows = self._database.execute(f"SELECT {columns} FROM gates WHERE identity = ? ORDER BY rowid", [known])
        return [_gate(row) for row in rows]

    def event(self, stage: str, kind: str, **detail: object) -> None:
        """Note that something happened now; `detail` is kept as JSON."""
        row = (datetime.now(UTC).isoformat(), stage, kind, json_text(detail))
        with transaction(self._database) as database:
            database.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)

    def events(self) -> Events:
        """All events, oldest first."""
        rows = self._database.execute("SELECT * FROM events ORDER BY rowid").fetchall()
        return [Event(row["time"], row["stage"], row["kind"], json.loads(row["detail"])) for row in rows]

    def best(self, domain: str, split: Split = "validation", among: Collection[str] | None = None) -> Best:
        """The checkpoint with the highest mean on a domain and split; of equals the earlier one.

        `among`: identities or stage names to choose from, None for all. Raises `RegistryError` when none has a score.
        """
        rows = self._database.execute(
            "SELECT * FROM scores JOIN checkpoints USING (identity) WHERE split = ? AND kind != 'reward_model' "
            "ORDER BY position",
            [split],
        ).fetchall()
        candidates = [
            Candidate(_checkpoint(row), _score(row), row["evaluation_hash"])
            for row in rows
            if row["domain"] == domain and (among is None or row["identity"] in among or row["stage"] in among)
        ]
        if not candidates:
            raise nothing_scored(domain, split, {row["domain"] for row in rows}, among is not None)
        return best_of(candidates, domain, split)

    def verify(self, identity: str) -> Sentences:
        """What is wrong with the files of a checkpoint, one sentence each; a relative path counts from the registry."""
        checkpoint = self.get(identity)
        return folder_problems(self.path.parent / checkpoint.path, checkpoint.weights_sha256)


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        **{name: row[name] for name in COLUMNS if name != "versions"}, versions=json.loads(row["versions"])
    )


def _gate(row: Mapping[str, Any]) -> GateResult:
    threshold, value = (math.nan if row[name] is None else row[name] for name in ("threshold", "value"))
    return GateResult(row["rule"], row["domain"], threshold, value, bool(row["passed"]), row["action"])


def _score(row: Mapping[str, Any]) -> SplitScore:
    return SplitScore(row["mean"], row["stderr"], row["n"], row["pass_at_k"], row["k"])
