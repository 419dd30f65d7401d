"""Everything that `cascade plan` says of a recipe on a cluster: its layout, its problems, what a search found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cascade.config import Recipe
from cascade.planning.case import Case
from cascade.planning.changes import Changes, words
from cascade.planning.plan_json import plan_json
from cascade.planning.problems import Problem, change_for_all, find_problems
from cascade.planning.search import Found
from cascade.planning.search import search as run_search
from cascade.planning.shapes import model_shape
from cascade.planning.splits import decide
from cascade.planning.stage_plan import RecipePlan


@dataclass(frozen=True)
class Decided:
    """A plan, and what there is to say about it."""

    plan: RecipePlan
    derived: Changes  # keys that were set to spread the recipe over the cluster
    problems: Sequence[Problem]
    together: Changes | None  # the change with which all fits
    searched: bool
    found: Found | None

    def as_json(self, commands: Sequence[str]) -> dict[str, Any]:
        """See docs/planning.md."""
        whole = plan_json(self.plan, self.problems, self.derived, commands)
        whole["change"] = words(self.together) if self.together else None
        if self.searched:
            whole["search"] = self._search_json()
        return whole

    def _search_json(self) -> dict[str, Any] | None:
        if self.found is None:
            return None
        own = self.plan.hours if self.plan.fits else None
        return {
            "overrides": words(self.found.changes),
            "hours": self.found.plan.hours,
            "gpu_hours": self.found.plan.gpu_hours,
            "gpus": self.found.plan.layout.gpus,
            "times_as_fast": own / self.found.plan.hours if own and self.found.plan.hours else None,
            "tried": self.found.tried,
            "seconds": self.found.seconds,
        }


def decided_plan(recipe: Recipe, order: Sequence[str], *, search: bool = False) -> Decided:
    """The plan of a recipe with a cluster, its layout decided where the recipe is written for other machines."""
    asked = Case.of(recipe, order, model_shape(recipe.model))
    split = decide(asked)
    plan = split.case.plan()
    problems = [] if plan.fits else find_problems(asked, plan)
    together = change_for_all(asked, problems) if problems else None
    return Decided(plan, split.derived, problems, together, search, run_search(asked) if search else None)
