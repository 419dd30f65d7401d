"""The regression matrix: every stage on every domain, so that what a later stage took away is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.types import DOMAINS

FALL = 0.05
"""A mean this far from the parent's is marked: 5 points of 100."""

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage on one domain, e.g. `Cell(0.47, 0.028, 300, False, 0.14)`."""

    mean: float
    stderr: float
    n: int  # prompts
    best: bool  # no stage has a higher mean on this domain
    change: float | None  # against the parent stage; None where that has no score

    @property
    def fell(self) -> bool:
        return self.change is not None and self.change <= ROUNDING - FALL

    @property
    def rose(self) -> bool:
        return self.change is not None and self.change >= FALL - ROUNDING


@dataclass(frozen=True, slots=True)
class Matrix:
    """Cells by (stage, domain); stages in recipe order, domains in the order of `cascade.types.DOMAINS`."""

    stages: tuple[str, ...]
    domains: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    def row(self, stage: str) -> list[Cell | None]:
        """The cells of a stage, None where a domain was not measured."""
        return [self.cells.get((stage, domain)) for domain in self.domains]

    def column(self, domain: str) -> list[Cell]:
        """The cells measured on a domain, in the order of the stages."""
        return [self.cells[stage, domain] for stage in self.stages if (stage, domain) in self.cells]


def score_matrix(stages: Sequence[Mapping[str, Any]], split: str) -> Matrix:
    """The matrix of a split from the stages of `read_status`. Reward models, which are no policies, have no row."""
    stages = [stage for stage in stages if stage.get("kind") != "reward_model"]
    scores = {s["name"]: _measured(s["scores"].get(split, {})) for s in stages}
    found = {domain for by_domain in scores.values() for domain in by_domain}
    domains = [d for d in DOMAINS if d in found] + sorted(found - set(DOMAINS))
    highest = {d: max(by[d]["mean"] for by in scores.values() if d in by) for d in domains}
    cells = {}
    for stage in stages:
        before = scores.get(stage["parent"], {})
        for domain, score in scores[stage["name"]].items():
            change = score["mean"] - before[domain]["mean"] if domain in before else None
            best = score["mean"] >= highest[domain] - ROUNDING
            cells[stage["name"], domain] = Cell(score["mean"], score["stderr"], score["n"], best, change)
    return Matrix(tuple(scores), tuple(domains), cells)


def regression_matrix(stages: Sequence[Mapping[str, Any]], split: str) -> str:
    """Stages x domains as aligned text: `.61 *` the best of a domain, `.47 v` five points or more below the parent.

    The last lines give, for each domain, the largest standard error in its column and the number of prompts.
    """
    matrix = score_matrix(stages, split)
    if not matrix.domains:
        return f"No stage has a score on the {split} split yet."
    columns = [matrix.column(domain) for domain in matrix.domains]
    lines = [
        [split, *matrix.domains],
        *([name, *(_words(cell) for cell in matrix.row(name))] for name in matrix.stages),
        ["standard error", *(f"{short(max(c.stderr for c in column))}  " for column in columns)],
        ["prompts", *(f"{min(c.n for c in column)}  " for column in columns)],
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]
    legend = "* best of its domain   v 5 points or more below its parent   standard error: the largest of the column"
    return "\n".join([*aligned[:-2], "", *aligned[-2:], legend])


def short(value: float) -> str:
    """Two decimals without a leading zero: .47, 1.00, -.12."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"


def _words(cell: Cell | None) -> str:
    if cell is None:
        return "-  "
    mark = "v" if cell.fell else "*" if cell.best else " "
    return f"{short(cell.mean)} {mark}"


def _measured(by_domain: Mapping[str, Any]) -> dict[str, Any]:
    return {domain: score for domain, score in by_domain.items() if score["mean"] is not None}
