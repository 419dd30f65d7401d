"""A table of an episode: rows in order, shared with all other episodes until one is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
"""A row, never changed in place, e.g. `{"task_id": "00000149", "task_name": "Add a carousel", ...}`; None is empty."""


class Table:
    """Rows and their labels. Copying one copies a list of references, whatever the rows hold.

    Labels are the index of the reference's data frames, which its comparison of states looks at too: rows are labelled
    from 0 on, a deletion leaves a gap, and an addition labels everything anew (`relabels`) or gets label 0.
    """

    __slots__ = ("columns", "key", "labels", "relabels", "rows")

    def __init__(self, columns: Sequence[str], rows: Sequence[Record], relabels: bool = True) -> None:
        self.columns, self.key, self.relabels = tuple(columns), columns[0], relabels
        self.rows: list[Record] = list(rows)
        self.labels: list[int] = list(range(len(self.rows)))

    def copy(self) -> Table:
        copied = Table.__new__(Table)
        copied.columns, copied.key, copied.relabels = self.columns, self.key, self.relabels
        copied.rows, copied.labels = self.rows.copy(), self.labels.copy()
        return copied

    def find(self, key: str) -> Record | None:
        """The first row with this key."""
        return next((row for row in self.rows if row[self.key] == key), None)

    def add(self, row: Record) -> None:
        self.rows.append(row)
        self.labels = list(range(len(self.rows))) if self.relabels else [*self.labels, 0]

    def update(self, key: str, column: str, value: str) -> None:
        """Set a column of every row with this key."""
        self.rows = [{**row, column: value} if row[self.key] == key else row for row in self.rows]

    def delete(self, key: str) -> None:
        """Remove every row with this key."""
        kept = [(row, label) for row, label in zip(self.rows, self.labels, strict=True) if row[self.key] != key]
        self.rows, self.labels = [row for row, _ in kept], [label for _, label in kept]

    def next_number(self) -> int:
        """One more than the key that sorts last as text. Raises `ValueError` where that is no number."""
        return int(max(row[self.key] for row in self.rows)) + 1

    def equals(self, other: Table, cased: Sequence[str]) -> bool:
        """The same rows in the same order; case counts in the columns `cased` only."""
        if self.labels != other.labels or self.rows == other.rows:
            return self.labels == other.labels
        return all(
            one is two or _folded(one, cased) == _folded(two, cased)
            for one, two in zip(self.rows, other.rows, strict=True)
        )


def _folded(row: Record, cased: Sequence[str]) -> dict[str, Any]:
    return {
        column: value.lower() if isinstance(value, str) and column not in cased else value
        for column, value in row.items()
    }
