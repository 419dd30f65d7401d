"""What went wrong on which rank, kept in the run folder, so that the first error can be told from its consequences."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cascade.atomic import write_json


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank has ended, e.g. `Failure(1, "node2", 1764.5, "DataError: ...", consequence=False)`."""

    rank: int
    node: str
    time: float  # s since 1970, by the clock of `node`
    error: str
    consequence: bool  # it only lost the others: somebody else failed first

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.time))
        return f"rank {self.rank} on {self.node} at {when} UTC: {self.error}"


def failures_folder(run_dir: str) -> Path:
    """Where the ranks of a run leave theirs."""
    return Path(run_dir) / "launch" / "failures"


def record(folder: Path, failure: Failure) -> None:
    """Writes it, unless the run folder cannot be written to any more: then its own output is all there is."""
    try:
        write_json(folder / f"rank_{failure.rank:05d}.json", asdict(failure))
    except OSError as error:
        print(f"cascade: cannot write to {folder}: {error}", file=sys.stderr, flush=True)


def first_failure(folder: Path) -> Failure | None:
    """The cause: the earliest that is no consequence of another, else the earliest; None where nobody failed."""
    found = [Failure(**json.loads(file.read_text())) for file in folder.glob("rank_*.json")]
    return min(found, key=lambda failure: (failure.consequence, failure.time), default=None)


def main(words: Sequence[str]) -> None:
    """`python -m cascade.launching.failures RUN_DIR`: prints the cause of the newest failed start, or nothing."""
    starts = sorted(failures_folder(words[0]).glob("*"), key=os.path.getmtime)
    first = first_failure(starts[-1]) if starts else None
    if first:
        print(f"cascade: first error: {first}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
