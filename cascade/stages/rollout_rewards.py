"""A reward model as the reward of rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.errors import DataError
from cascade.ports import GivesPairs
from cascade.prompts import Renderer
from cascade.reasoning import split_reasoning
from cascade.teachers.reward import LocalRewardModel
from cascade.types import REWARDED, Group, Message, Rollout, Score, TrainingSequence

REWARD = "reward"
"""Where a stage's teachers are named by domain, the reward model stands under this name; no domain is called so."""


@dataclass(frozen=True)
class RolloutRewards:
    """Adds `weight` times the model's reward to the rollouts of one domain; where pairs score nothing, it is all.

    Its zero is arbitrary, which a group-relative advantage does not see. Talks to no other process: every rank
    rewards its own share.
    """

    model: LocalRewardModel
    renderer: Renderer
    weight: float

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, those of the domain with their rewards."""
        found = [rollout for group in groups for rollout in group.rollouts if self._judges(rollout)]
        documents = [self._document(rollout) for rollout in found]
        whole = [document for document in documents if isinstance(document, TrainingSequence)]
        rewards = iter(self.model.score(whole))
        judged = iter(
            [
                self._with(rollout, next(rewards) if isinstance(document, TrainingSequence) else document)
                for rollout, document in zip(found, documents, strict=True)
            ]
        )
        return [
            dataclasses.replace(g, rollouts=tuple(next(judged) if self._judges(r) else r for r in g.rollouts))
            for g in groups
        ]

    def _judges(self, rollout: Rollout) -> bool:
        row = rollout.prompt.row
        ended = rollout.finish_reason != "abort"
        return row.domain == REWARDED and ended and (rollout.score is not None or self._unscored(rollout))

    def _unscored(self, rollout: Rollout) -> bool:
        environment = self.renderer.environments[rollout.prompt.row.environment]
        return isinstance(environment, GivesPairs) and environment.pairs_only

    def _document(self, rollout: Rollout) -> TrainingSequence | str:
        """Prompt and answer as a reward model reads them, without reasoning; or why they cannot be read."""
        row = rollout.prompt.row
        answer = split_reasoning(rollout.text, rollout.prompt.thinking).answer
        said: Message = {"role": "assistant", "content": answer}
        try:
            return self.renderer.document(row, [*self.renderer.environments[row.environment].messages(row), said])
        except DataError as error:
            return f"task: the reward model cannot read the answer: {error.what}"

    def _with(self, rollout: Rollout, found: float | str) -> Rollout:
        if isinstance(found, str):
            return dataclasses.replace(rollout, score=None, failure=found)
        before = Score(0.0) if rollout.score is None else rollout.score
        reward, parts = before.reward + self.weight * found, {**before.parts, "reward_model": found}
        score = dataclasses.replace(before, reward=reward, parts=parts)
        return dataclasses.replace(rollout, score=score, failure=None)
