"""Pairs, verdicts in replies and scores from comparisons, against numbers worked out by hand."""

from __future__ import annotations

import time

import pytest

from cascade.environments.pairwise import (
    NEUTRAL,
    Comparison,
    base_scores,
    json_objects,
    pairs,
    parse_comparison,
    won,
)


def test_all_pairs_are_every_two_and_circular_ones_are_neighbours() -> None:
    assert pairs("all", 4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs("circular", 4) == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert len(pairs("all", 16)) == 120  # as the paper counts
    assert len(pairs("circular", 16)) == 16


@pytest.mark.parametrize("pairing", ["all", "circular"])
def test_both_orders_show_every_pair_the_other_way_round_and_none_twice(pairing) -> None:
    for count in range(2, 7):
        once, both = pairs(pairing, count), pairs(pairing, count, both_orders=True)
        assert set(both) == set(once) | {(j, i) for i, j in once}
        assert len(both) == len(set(both))
    assert pairs("circular", 2, both_orders=True) == pairs("circular", 2) == [(0, 1), (1, 0)]


def test_fewer_than_two_answers_make_no_pair() -> None:
    assert pairs("all", 1) == pairs("circular", 1) == pairs("all", 0) == []


@pytest.mark.parametrize(
    "comparison, settled",
    [
        (Comparison(4, 3, 6), (4, 3)),  # the ranking only parts equal scores
        (Comparison(4, 4, 1), (6.5, 1.5)),
        (Comparison(4, 4, 3), (4.5, 3.5)),
        (Comparison(2, 2, 5), (0.5, 3.5)),
        (Comparison(3, 3, 3.5), (3, 3)),
    ],
)
def test_a_tie_is_broken_by_the_ranking(comparison: Comparison, settled: tuple[float, float]) -> None:
    assert comparison.settled == settled


def test_a_base_score_is_the_mean_over_matches_as_worked_out_by_hand() -> None:
    matches = [
        ((0, 1), Comparison(5, 2, 1)),  # 5, 2
        ((1, 2), Comparison(3, 3, 2)),  # 4.5, 1.5
        ((2, 0), Comparison(4, 4, 6)),  # 1.5, 6.5
        ((0, 1), NEUTRAL),  # 3, 3
    ]
    assert base_scores(4, matches) == [(5 + 6.5 + 3) / 3, (2 + 4.5 + 3) / 3, (1.5 + 1.5) / 2, None]


def test_a_match_is_won_by_score_then_ranking_and_tied_halves() -> None:
    assert [won(Comparison(4, 2, 5), place) for place in (0, 1)] == [1.0, 0.0]
    assert [won(Comparison(3, 3, 5), place) for place in (0, 1)] == [0.0, 1.0]
    assert [won(Comparison(3, 3, 3.5), place) for place in (0, 1)] == [0.5, 0.5]


@pytest.mark.parametrize(
    "reply, verdict",
    [
        ('{"score_1": 4, "score_2": 3, "ranking": 2}', (4, 3, 2)),
        ('So:\n```json\n{\n "score_1": 4.5,\n "score_2": 3, "ranking": 2}\n```\nDone {"score_1": 1}', (4.5, 3, 2)),
        ('first {"score_1": 1} then {"score_1": 5, "score_2": 2, "ranking": 1} end', (5, 2, 1)),
        ('```JSON {"ranking": 6}```', (3, 3, 6)),
        ('{"score_1": 4}', (4, 3, 3.5)),
        ('{"score_1": "4", "score_2": true}', (4, 1, 3.5)),
        ('{"overall": {"score_1": 2, "score_2": 5, "ranking": 6}, "rubric": []}', (2, 5, 6)),
        ('{"why": "a } in \\" text {", "score_2": 1}', (3, 1, 3.5)),
        ('```json\n{"why": 1}\n```\n{"score_1": 2}', (2, 3, 3.5)),
        ("```json\nno object\n``` {} {broken {", None),
        ('{"score_1": "good"}', None),
        ('{"score_1": null}', None),
        ('[4, 3, 2] "score_1": 4', None),
        ('{"verdict": {"score_1": 4}}', None),
        ('{"score_1": NaN}', None),
        ('{"score_1": Infinity}', None),
        ('{"score_1": 1e400}', None),
        ('{"score_1": 1000000}', None),
        ('{"score_2": 0}', None),
        ('{"ranking": 7}', None),
        ('{"score_1": ' + "9" * 5000 + "}", None),
        ("Response 1 is better.", None),
        ("", None),
    ],
)
def test_the_verdict_of_a_reply(reply: str, verdict: tuple[float, float, float] | None) -> None:
    found = parse_comparison(reply)
    assert found == (verdict and Comparison(*verdict))


def test_keys_that_are_spelt_with_escapes_are_no_verdict() -> None:
    assert parse_comparison('{"\\u0073core_1": 5, "score_2": 1}') is None


def test_objects_are_outermost_and_braces_in_strings_do_not_count() -> None:
    assert json_objects('{a {b}} "}" {"c": "}{"} { {d}') == ["{a {b}}", '{"c": "}{"}', "{d}"]


@pytest.mark.parametrize(
    "piece", ["{", '{"', '{"a":', "```json", '"', "\\", '{"\\', "[", "{} ", '{"score_1": [', "{'", "\n", "}"]
)
def test_no_reply_is_read_for_long(piece: str) -> None:
    started = time.monotonic()
    assert parse_comparison(piece * (5_000_000 // len(piece))) is None
    assert time.monotonic() - started < 4.0
