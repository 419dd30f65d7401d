"""What is dropped is counted, what is kept is kept whole."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from cascade.algorithms.filtering import drop_failures, drop_stale, drop_without_signal, has_signal, penalise_overlong
from cascade.config import RlStage
from cascade.errors import EngineError
from cascade.step import to_sequences
from cascade.types import Group, Prompt, Rollout, Row, Score, VersionSpan


def group(name: str, *rewards: float | None, unfinished: tuple[int, ...] = (), teacher: str | None = None) -> Group:
    """One rollout a reward; None is a failure to score."""
    prompt = Prompt(Row(f"addition/{name}", "math", "addition", {}), (3, 4), teacher)
    return Group(
        prompt,
        tuple(
            Rollout(
                prompt,
                index,
                (5, 6, 7),
                (-0.1, -0.2, -0.3),
                versions=(VersionSpan(0, 1),),
                finish_reason="length" if index in unfinished else "stop",
                score=None if reward is None else Score(reward, {"correct": reward}),
                failure=f"no verdict on {name}#{index}" if reward is None else None,
            )
            for index, reward in enumerate(rewards)
        ),
    )


def rewards_of(groups: list[Group]) -> list[list[float]]:
    return [[rollout.reward for rollout in group.rollouts] for group in groups]


def rl_stage(**more: object) -> RlStage:
    return RlStage(mix={"addition": 1.0}, max_steps=1, learning_rate=1.0, **more)  # type: ignore[arg-type]


def test_the_overlong_penalty_takes_the_reward_and_keeps_the_loss() -> None:
    (judged,) = penalise_overlong([group("a", 1.0, 1.0, 0.5, unfinished=(1,))])
    assert rewards_of([judged]) == [[1.0, 0.0, 0.5]]
    assert judged.rollouts[1].score.parts == {"correct": 1.0, "overlong": 1.0}
    sequences = to_sequences(judged, rl_stage(overlong_penalty=True))
    assert [s.loss_mask for s in sequences] == [(0, 0, 1, 1, 1)] * 3
    assert sequences[1].advantage < 0


def test_overlong_filtering_takes_the_loss_and_keeps_the_reward_in_its_group() -> None:
    whole = group("a", 1.0, 1.0, 0.5, unfinished=(1,))
    filtered = to_sequences(whole, rl_stage(overlong_filtering=True))
    assert [s.loss_mask for s in filtered] == [(0, 0, 1, 1, 1), (0, 0, 0, 0, 0), (0, 0, 1, 1, 1)]
    assert filtered[1].sampler_log_probs == (0.0,) * 5
    # The unfinished 1.0 still counts in the mean and the std of the others.
    assert [s.advantage for s in filtered] == [s.advantage for s in to_sequences(whole, rl_stage())]


def test_the_penalty_leaves_a_failure_a_failure() -> None:
    (judged,) = penalise_overlong([group("a", None, 1.0, unfinished=(0,))])
    assert judged.rollouts[0].score is None


def test_failures_are_dropped_and_counted_and_never_a_reward_of_zero() -> None:
    dropped: Counter[str] = Counter()
    kept = drop_failures([group("a", 1.0, None, 0.5), group("b", None, None, None)], dropped)
    assert rewards_of(kept) == [[1.0, 0.5]]
    assert [rollout.index for rollout in kept[0].rollouts] == [0, 2]
    assert dropped == Counter(failure=4)


def test_a_group_of_which_one_rollout_is_left_is_dropped_and_counted() -> None:
    dropped: Counter[str] = Counter()
    kept = drop_failures([group("a", 1.0, None), group("b", 0.0, 1.0)], dropped)
    assert rewards_of(kept) == [[0.0, 1.0]]
    assert dropped == Counter(failure=1, group_too_small=1)


def test_groups_of_one_by_design_are_kept() -> None:
    dropped: Counter[str] = Counter()
    assert rewards_of(drop_failures([group("a", 0.5), group("b", None)], dropped)) == [[0.5]]
    assert +dropped == Counter(failure=1)


def test_nothing_scored_is_an_error_that_names_the_first_failure() -> None:
    with pytest.raises(EngineError, match=r"None of 4 answers .* no verdict on a#0"):
        drop_failures([group("a", None, None), group("b", None, None)], Counter())
    assert drop_failures([], Counter()) == []


def test_dynamic_filtering_drops_groups_of_equal_rewards_and_counts_their_rollouts() -> None:
    dropped: Counter[str] = Counter()
    groups = [group("a", 1.0, 1.0, 1.0), group("b", 0.0, 1.0), group("c", 0.0, 0.0), group("d", 0.3)]
    assert [has_signal(g) for g in groups] == [False, True, False, False]
    assert drop_without_signal(groups, dropped) == [groups[1]]
    assert dropped == Counter(zero_signal=6)


def test_dropping_groups_never_changes_the_teacher_of_another_sample() -> None:
    groups = [
        group("a", 1.0, 1.0, teacher="first"),
        group("b", None, 1.0, 0.0, teacher="second"),
        group("c", None, 1.0, teacher="third"),
        group("d", 0.0, 1.0, teacher="fourth"),
    ]
    kept = drop_without_signal(drop_failures(groups, Counter()), Counter())
    teachers = {rollout.prompt.row.id: rollout.prompt.teacher for g in kept for rollout in g.rollouts}
    assert teachers == {"addition/b": "second", "addition/d": "fourth"}
    assert all(rollout.prompt is g.prompt for g in kept for rollout in g.rollouts)


def test_groups_with_a_token_that_is_too_old_are_dropped_and_counted() -> None:
    def sampled_by(kept: Group, *versions: int) -> Group:
        spans = tuple(VersionSpan(version, 1) for version in versions)
        first = dataclasses.replace(kept.rollouts[0], versions=spans)
        others = [dataclasses.replace(rollout, versions=(VersionSpan(7, 3),)) for rollout in kept.rollouts[1:]]
        return dataclasses.replace(kept, rollouts=(first, *others))

    fresh, mixed, old = (
        sampled_by(group(name, 1.0, 0.0), *v) for name, v in (("a", (7,)), ("b", (5, 7)), ("c", (4, 7)))
    )
    dropped: Counter[str] = Counter()
    assert drop_stale([fresh, mixed, old], 7, 2, dropped) == [fresh, mixed]
    assert dropped["stale"] == 2
    assert drop_stale([fresh, mixed, old], 7, 0, dropped) == [fresh]
