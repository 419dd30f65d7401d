"""A recipe, a model and the work of every stage: what a plan, its repairs and a search all start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cascade.config import ClusterConfig, Recipe
from cascade.planning.changes import Changes, changed, why_not
from cascade.planning.divisibility import why_impossible
from cascade.planning.layout import Layout, cluster_of, layout_of
from cascade.planning.roles import Role, stage_roles
from cascade.planning.shapes import ModelShape
from cascade.planning.stage_plan import RecipePlan, stage_plan
from cascade.planning.workload import StageWork, stage_work


@dataclass(frozen=True)
class Case:
    """What is planned."""

    recipe: Recipe
    order: Sequence[str]
    shape: ModelShape
    works: Mapping[str, StageWork]  # a step of every stage; nothing that is varied here changes it

    @staticmethod
    def of(recipe: Recipe, order: Sequence[str], shape: ModelShape) -> Case:
        """Raises `ConfigError` for a recipe without a cluster."""
        cluster_of(recipe)
        return Case(recipe, order, shape, {name: stage_work(recipe, name) for name in order})

    @property
    def cluster(self) -> ClusterConfig:
        """The machines."""
        return cluster_of(self.recipe)

    @property
    def layout(self) -> Layout:
        """As the recipe's numbers are."""
        return layout_of(self.recipe, self.cluster)

    def changed(self, changes: Changes) -> Case:
        """With some keys set."""
        return replace(self, recipe=changed(self.recipe, changes)) if changes else self

    def refused(self) -> str | None:
        """Why it cannot run at all, whatever memory there is; None where it can."""
        return why_impossible(self.recipe, self.shape, self.cluster, self.layout) or why_not(self.recipe)

    def roles(self) -> dict[str, list[Role]]:
        """stage -> its roles. Memory alone, which is quick."""
        layout, cluster = self.layout, self.cluster
        return {
            name: stage_roles(self.recipe, name, self.shape, cluster, layout, work) for name, work in self.works.items()
        }

    def overflow(self) -> dict[str, float]:
        """role -> how full the stage that needs most of it is (`Role.filled`); above 1 it does not fit."""
        found: dict[str, float] = {}
        for roles in self.roles().values():
            for role in roles:
                found[role.name] = max(found.get(role.name, 0.0), role.filled)
        return found

    def plan(self) -> RecipePlan:
        """The whole plan."""
        layout, cluster = self.layout, self.cluster
        stages = [stage_plan(self.recipe, name, self.shape, cluster, layout, self.works[name]) for name in self.order]
        return RecipePlan(self.recipe, self.shape, cluster, layout, stages, self.refused())
