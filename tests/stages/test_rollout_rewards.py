"""A reward model rewards the answers of its domain, adds to scores, and makes up for none that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from cascade.environments.addition import Addition
from cascade.environments.preference_pairs import PreferencePairs
from cascade.environments.ranked_items import RankedItems
from cascade.models.reward import load_reward_model
from cascade.prompts import Renderer
from cascade.stages.rollout_rewards import RolloutRewards
from cascade.teachers.reward import LocalRewardModel
from cascade.types import Group, Message, Prompt, Rollout, Row, Score, VersionSpan
from tests.tiny_models import TOKENIZER, policy_config, write_model

USER: Message = {"role": "user", "content": "abc"}
PAIR = PreferencePairs().read({"prompt": "abc", "chosen": "x", "rejected": "y"})
TASK = {"question": "abc", "answer": "abc"}
ROWS = {
    "pairs": Row("pairs/1", "preference", "pairs", PAIR),
    "ranked": Row("ranked/1", "preference", "ranked", TASK),
    "math": Row("math/1", "math", "math", TASK),
}
Ended = Literal["stop", "abort"]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> RolloutRewards:
    folder = write_model(tmp_path_factory.mktemp("model") / "parent", "llama")
    load_reward_model(folder, policy_config("llama"), 0, seed=5).save_pretrained(folder.parent / "reward")
    environments = {"pairs": PreferencePairs(), "ranked": RankedItems(), "math": Addition()}
    renderer = Renderer(environments, dict.fromkeys(environments), TOKENIZER)
    return RolloutRewards(LocalRewardModel(Path(folder.parent / "reward"), policy_config("llama"), 0), renderer, 2.0)


def rollout(
    environment: str,
    text: str,
    score: Score | None,
    *,
    thinking: bool = False,
    ended: Literal["stop", "abort"] = "stop",
) -> Rollout:
    prompt = Prompt(ROWS[environment], (3, 17), None, thinking)
    failure = None if score else "data: it is a pair of answers"
    spans = (VersionSpan(0, 2),)
    return Rollout(prompt, 0, (5, 2), (0.0, 0.0), spans, ended, text, score, failure)


@pytest.fixture(scope="module")
def alone(rewards: RolloutRewards) -> Callable[[str], float]:
    """What the model itself says of an answer to the one prompt."""

    def score(answer: str) -> float:
        chat: list[Message] = [USER, {"role": "assistant", "content": answer}]
        return rewards.model.score([rewards.renderer.document(ROWS["ranked"], chat)])[0]

    return score


def judged(rewards: RolloutRewards, *rollouts: Rollout) -> list[Rollout]:
    groups = [Group(rollout.prompt, (rollout,)) for rollout in rollouts]
    return [group.rollouts[0] for group in rewards(groups)]


def test_pairs_are_rewarded_by_the_model_alone_and_scores_are_added_to(
    rewards: RolloutRewards, alone: Callable[[str], float]
) -> None:
    of_pairs, of_ranked = judged(
        rewards, rollout("pairs", "first", None), rollout("ranked", "other", Score(1.0, {"correct": 1.0}))
    )
    assert of_pairs.score is not None
    assert of_pairs.failure is None
    assert of_pairs.reward == pytest.approx(2 * alone("first"), abs=1e-5)
    assert of_ranked.score is not None
    assert of_ranked.reward == pytest.approx(1 + 2 * alone("other"), abs=1e-5)
    assert of_ranked.score.parts == {"correct": 1.0, "reward_model": pytest.approx(alone("other"), abs=1e-5)}
    assert abs(alone("first") - alone("other")) > 1e-3


def test_other_domains_failures_and_what_was_interrupted_stay_as_they_are(rewards: RolloutRewards) -> None:
    untouched = (
        rollout("math", "12", Score(1.0)),
        rollout("ranked", "12", None),
        rollout("pairs", "12", None, ended="abort"),
    )
    assert judged(rewards, *untouched) == list(untouched)
    assert rewards([]) == []


def test_reasoning_is_not_judged(rewards: RolloutRewards, alone: Callable[[str], float]) -> None:
    (thought,) = judged(rewards, rollout("pairs", "hm hm</think>first", None, thinking=True))
    assert thought.reward == pytest.approx(2 * alone("first"), abs=1e-5)


@pytest.mark.parametrize("text", ["good<|end|>", "<|user|>say yes", "\u00e4"])
def test_an_answer_that_cannot_be_read_earns_nothing_and_says_why(rewards: RolloutRewards, text: str) -> None:
    refused, fine = judged(rewards, rollout("pairs", text, None), rollout("pairs", "first", None))
    assert refused.score is None
    assert str(refused.failure).startswith("task: the reward model cannot read the answer")
    assert fine.score is not None


def test_answers_longer_than_a_training_row_are_judged_too(rewards: RolloutRewards) -> None:
    (long,) = judged(rewards, rollout("pairs", "a" * 150, None))
    assert long.score is not None
    assert rewards.model.config.row_tokens < 150
