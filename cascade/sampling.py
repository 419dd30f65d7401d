"""The scored groups of every step: published weights, rollouts ahead of training, filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cascade import parallel
from cascade.ahead import BatchesAhead
from cascade.algorithms.filtering import (
    drop_failures,
    drop_masked,
    drop_stale,
    drop_without_signal,
    drop_without_success,
    has_signal,
    penalise_overlong,
)
from cascade.checkpoint import StageState
from cascade.config import MopdStage, RlStage
from cascade.ports import Policy, RolloutEngine
from cascade.prompts import PromptSource
from cascade.rollout.canary import Canary
from cascade.rollouts import sample_groups
from cascade.seeds import derived_seed
from cascade.types import Group, Prompt
from cascade.verification.jobs import Verifiers


@dataclass(frozen=True)
class Collected:
    """What a step has to learn from."""

    groups: Sequence[Group]  # to train on; empty where there is nothing to learn
    seen: Sequence[Group]  # everything that was sampled and scored
    dropped: Counter[str]  # rollouts by reason
    measured: Mapping[str, float]  # metrics of handing over the weights, and of this process's verifiers


class Sampler:
    """Fills the steps of one stage. Every rank holds one and makes the same calls."""

    def __init__(
        self,
        engine: RolloutEngine,
        verifiers: Verifiers,
        source: PromptSource,
        max_tokens: Mapping[str, int],  # environment -> completion tokens
        stage: RlStage | MopdStage,
        seed: int,  # of the stage
        canary: Canary | None,  # None: nothing proves that published weights have arrived
        reward: Callable[[Sequence[Group]], list[Group]] | None = None,  # what a reward model adds; called in threads
    ) -> None:
        self.engine = engine
        self.verifiers = verifiers
        self.source = source
        self.max_tokens = max_tokens
        self.stage = stage
        self.seed = seed
        self.canary = canary
        self.reward = reward
        self.ahead = BatchesAhead(
            lambda: source.draw(stage.prompts_per_step),
            self._sample,
            ahead=stage.max_staleness,
            last=stage.max_steps - 1,
        )

    def collect(self, policy: Policy, step: int) -> Collected:
        """The groups of `step`, with new prompts drawn in place of those that dynamic filtering drops. Collective."""
        stage = self.stage
        refills = stage.max_refills if isinstance(stage, RlStage) and stage.dynamic_filtering else None
        published: dict[str, float] = {}
        groups: list[Group] = []
        seen: list[Group] = []
        dropped: Counter[str] = Counter()
        for attempt in range(1 + (refills or 0)):
            if attempt == 0:
                fresh = self.ahead.take(step, lambda: published.update(self.publish(policy, step)))
            else:
                prompts = self.source.draw(stage.prompts_per_step - len(groups))
                fresh = parallel.collect(self._sample(parallel.spread(prompts), step, attempt))
            fresh = penalise_overlong(fresh) if stage.overlong_penalty else fresh
            fresh = drop_failures(fresh, dropped)
            seen += fresh
            fresh = drop_stale(fresh, step, stage.max_staleness, dropped)
            if isinstance(stage, RlStage) and stage.min_best_reward is not None:
                fresh = drop_without_success(fresh, stage.min_best_reward, dropped)
            fresh = drop_without_signal(fresh, dropped) if refills is not None else fresh
            groups += drop_masked(fresh, dropped)
            if len(groups) >= stage.prompts_per_step:
                break
        if isinstance(stage, RlStage) and not stage.kl_coef:
            groups = groups if any(has_signal(group) for group in groups) else []
        return Collected(groups, seen, dropped, {**published, **self.verifiers.metrics()})

    @contextmanager
    def begun(self, policy: Policy, state: StageState) -> Iterator[None]:
        """From where the stage stands to its end, or to the error that ends it. Collective."""
        self.ahead.restore(state.waiting)
        self.verifiers.metrics()  # what was counted before is not of this stage
        if self.canary and state.step == 0:  # before any compute is spent: both sides start from the same weights
            self.canary.check(self.engine, policy)
        try:
            yield
        finally:
            if self.ahead.busy:
                self.engine.abort()
            with self.verifiers.unwanted():
                self.ahead.close()

    def publish(self, policy: Policy, version: int) -> dict[str, float]:
        """Hands the policy's weights to the engine, and proves now and then that they have arrived. Collective."""
        if self.engine.version == version:
            return {}
        measured = dict(self.engine.publish(policy, version))
        if self.canary and version % self.canary.every == 0:
            measured.update(self.canary.check(self.engine, policy))
        return measured

    def _sample(self, prompts: Sequence[Prompt], step: int, attempt: int = 0) -> list[Group]:
        groups = sample_groups(
            self.engine,
            self.source.renderer,
            self.verifiers,
            prompts,
            samples=self.stage.num_generations,
            temperature=self.stage.temperature,
            max_tokens=self.max_tokens,
            seed=derived_seed(self.seed, step, attempt),
        )
        return self.reward(groups) if self.reward else groups
