"""What length does to the rewards of a group, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from cascade.environments.length_control import Adjusted, LengthControl, adjust, length_weights

OFF = LengthControl(0.0, 0.0, 0.2, 0.0, 0.0)


def texts(*lengths: int) -> list[str]:
    return ["x" * length for length in lengths]


def test_weights_are_1_for_the_shortest_0_for_the_longest_and_centred() -> None:
    assert length_weights([10, 20, 30]) == [0.5, 0.0, -0.5]
    assert length_weights([0, 100, 100, 100]) == [0.75, -0.25, -0.25, -0.25]
    assert length_weights([7, 7]) == [0.0, 0.0]


def test_a_whole_group_as_worked_out_by_hand() -> None:
    # Five members: the top fifth is the best one alone, so a bonus needs a base of 4.5.
    adjusted = adjust([4.5, 2.0, 3.0, 3.0, 2.5], texts(10, 20, 30, 40, 50), texts(5, 1, 9, 5, 5), LengthControl())
    # Reasoning: weights 1, .75, .5, .25, 0 less .5. Answers: .5, 1, 0, .5, .5 less .5. Half of each.
    assert adjusted == [
        Adjusted(4.5 + 0.5 + 0.25, 0.5, 0.0, 0.25, 0.0),
        Adjusted(2.0 + 0.125 + 0.25, 0.0, 0.0, 0.125, 0.25),  # the shortest answer, but not good enough for a bonus
        Adjusted(3.0 - 0.25, 0.0, 0.0, 0.0, -0.25),
        Adjusted(3.0 - 0.125, 0.0, 0.0, -0.125, 0.0),
        Adjusted(2.5 - 0.25, 0.0, 0.0, -0.25, 0.0),
    ]


def test_both_bonuses_may_go_to_one_member_and_none_to_a_bad_one() -> None:
    both = LengthControl(0.5, 0.3, 0.2, 0.0, 0.0)
    assert [a.reward for a in adjust([4.0, 3.0], texts(1, 2), texts(1, 2), both)] == [4.8, 3.0]
    assert [a.reward for a in adjust([4.0, 3.0], texts(2, 1), texts(2, 1), both)] == [4.0, 3.0]


def test_the_gate_is_the_last_of_the_top_share() -> None:
    base = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # two tenths: the gate is 4
    for shortest, bonus in ((0, 0.5), (1, 0.5), (2, 0.0)):
        answers = ["long answer"] * 10
        answers[shortest] = "short"
        assert adjust(base, [""] * 10, answers, LengthControl(0.0, 0.5, 0.2, 0.0, 0.0))[shortest].answer_bonus == bonus


def test_empty_text_earns_no_bonus_and_the_first_of_equally_short_ones_does() -> None:
    control = LengthControl(0.0, 0.5, 1.0, 0.0, 0.0)
    assert [a.answer_bonus for a in adjust([3.0] * 3, [""] * 3, ["  \n", "ab", "cd"], control)] == [0.0, 0.5, 0.0]
    assert [a.answer_bonus for a in adjust([3.0] * 2, [""] * 2, ["", ""], control)] == [0.0, 0.0]


def test_white_space_around_text_has_no_length() -> None:
    control = LengthControl(0.0, 0.0, 0.2, 0.5, 0.5)
    padded = adjust([3.0, 3.0], [" a ", "\n\nb"], ["  c", "d\t"], control)
    assert [a.reward for a in padded] == [3.0, 3.0]


def test_length_moves_rewards_within_a_group_and_not_their_mean() -> None:
    base = [4.0, 3.0, 2.5, 1.0]
    control = LengthControl(0.0, 0.0, 0.2, 0.5, 0.5)
    rewards = [a.reward for a in adjust(base, texts(3, 1, 4, 1), texts(5, 9, 2, 6), control)]
    assert sum(rewards) == pytest.approx(sum(base))
    assert rewards != base


def test_without_coefficients_nothing_changes_and_one_alone_is_not_compared() -> None:
    assert [a.reward for a in adjust([4.0, 3.0], texts(1, 2), texts(1, 2), OFF)] == [4.0, 3.0]
    assert adjust([4.0], ["x"], ["y"], LengthControl()) == [Adjusted(4.0, 0.0, 0.0, 0.0, 0.0)]


def test_longer_answers_cannot_pay_for_shorter_reasoning() -> None:
    """Both are weighed apart: moving text from the reasoning to the answer gains nothing."""
    control = LengthControl(0.0, 0.0, 0.2, 0.5, 0.5)
    first, second = adjust([3.0, 3.0], texts(0, 100), texts(100, 0), control)
    assert first.reward == second.reward == 3.0
