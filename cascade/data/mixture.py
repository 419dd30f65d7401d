"""A weighted blend of row sources whose proportions hold at every prefix."""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from cascade.errors import DataError
from cascade.types import Row


class Mixture:
    """An endless stream of rows in which each source has its share of every prefix, to within one row.

    After `k` rows a source of normalised weight `w` has given more than `w k - 1` and fewer than `w k + 1` of them: of
    the sources that are not ahead of their share, the one whose next row is due first goes next (earliest deadline
    first, proportionate fairness of Baruah et al. 1996). Only the order of rows inside a source is random: every epoch
    is a permutation seeded by (seed, source, epoch).

    Example: `Mixture({"math": math_rows, "code": code_rows}, {"math": 3, "code": 1}, seed=0).draw(4)`.
    """

    def __init__(self, rows: Mapping[str, Sequence[Row]], weights: Mapping[str, float], seed: int) -> None:
        """`weights` need not sum to 1. Raises `DataError` for a weight that is not above 0 or a source without rows."""
        _require_sources(rows, weights)
        total = sum((Fraction(weight) for weight in weights.values()), Fraction(0))
        self._names = sorted(weights)
        self._rows = {name: rows[name] for name in self._names}
        self._shares = {name: Fraction(weights[name]) / total for name in self._names}
        self._seed = seed
        self._drawn = dict.fromkeys(self._names, 0)
        self._orders: dict[str, tuple[int, list[int]]] = {}  # source -> (epoch, permutation)

    def draw(self, n: int) -> list[Row]:
        """The next `n` rows of the stream; `draw(3) + draw(5)` is `draw(8)`."""
        return [self._next() for _ in range(n)]

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON values."""
        return {"seed": self._seed, "drawn": dict(self._drawn), "sources": self._identity}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken. Raises `DataError` when seed, weights or rows were others."""
        if state["seed"] != self._seed or state["sources"] != self._identity:
            raise DataError(
                "The saved position belongs to a mixture with another seed, other weights or other rows.",
                "Resume with the same seed, weights and data, or start a new stage.",
            )
        self._drawn = {name: int(state["drawn"][name]) for name in self._names}

    def _next(self) -> Row:
        slot = sum(self._drawn.values())
        open_names = [name for name in self._names if self._drawn[name] < self._shares[name] * (slot + 1)]
        name = min(open_names, key=lambda name: math.ceil((self._drawn[name] + 1) / self._shares[name]))
        epoch, position = divmod(self._drawn[name], len(self._rows[name]))
        self._drawn[name] += 1
        return self._rows[name][self._order(name, epoch)[position]]

    def _order(self, name: str, epoch: int) -> list[int]:
        known = self._orders.get(name)
        if known is None or known[0] != epoch:
            order = list(range(len(self._rows[name])))
            random.Random(f"{self._seed}/{name}/{epoch}").shuffle(order)
            known = self._orders[name] = (epoch, order)
        return known[1]

    @functools.cached_property
    def _identity(self) -> dict[str, list[str]]:
        """Source -> [exact share, sha256 of its row ids in order]. Once: `state` is asked for after every step."""
        identity = {}
        for name in self._names:
            ids = "\n".join(row.id for row in self._rows[name])
            identity[name] = [str(self._shares[name]), hashlib.sha256(ids.encode()).hexdigest()]
        return identity


def _require_sources(rows: Mapping[str, Sequence[Row]], weights: Mapping[str, float]) -> None:
    if not weights or rows.keys() != weights.keys():
        raise DataError(
            f"The mixture has rows of {sorted(rows)} and weights of {sorted(weights)}.",
            "Give every source both rows and a weight.",
        )
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight <= 0:
            raise DataError(
                f"The source {name!r} has weight {weight}.", "Give a number above 0, or leave the source out."
            )
        if not rows[name]:
            raise DataError(f"The source {name!r} has no rows.", "Check its path and filters, or leave the source out.")
