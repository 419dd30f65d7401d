"""Charts: right ticks, unbroken only where there are values, escaped."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from cascade.tracking.lineage_svg import Node, TeacherEdge, lineage_svg
from cascade.tracking.svg import MAX_POINTS, chart, thinned, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.31, 0.72, [0.4, 0.5, 0.6, 0.7]),
        (0.0, 0.0, [-0.4, -0.2, 0.0, 0.2, 0.4]),
        (1e-6, 3e-6, None),
    ],
)
def test_ticks_are_round_and_within(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 6
    if expected is not None:
        assert found == pytest.approx(expected)


def test_step_ticks_are_whole() -> None:
    assert ticks(1, 3, 4, whole=True) == [1, 2, 3]
    assert ticks(7, 7, 4, whole=True) == [7]


def test_a_missing_value_breaks_the_line_and_a_lonely_one_is_a_dot() -> None:
    svg = chart([(1, 0.1), (2, 0.2), (3, None), (4, 0.4)], "reward", "if_rl")
    root = ElementTree.fromstring(svg)
    assert [e.get("class") for e in root if e.get("class") in ("curve", "dot")] == ["curve", "dot"]
    assert root.findtext("title") == "reward of if_rl, steps 1 to 4: from 0.1 to 0.4, lowest 0.1, highest 0.4"


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [-3.0, -3.0], [1e-9, 1e9], [1e-300, 1e300]])
def test_any_values_give_places_inside_the_chart(values: list[float]) -> None:
    root = ElementTree.fromstring(chart(list(enumerate(values)), "loss", "a"))
    places = [float(e.get(name, "0")) for e in root for name in ("x", "y", "cx", "cy")]
    assert all(math.isfinite(place) and 0 <= place <= 300 for place in places)


def test_nothing_to_draw_is_nothing() -> None:
    assert chart([], "loss", "a") == ""
    assert chart([(1, None)], "loss", "a") == ""
    assert lineage_svg([], []) == ""


def test_long_runs_are_thinned_to_means() -> None:
    thin = thinned([(step, float(step % 2)) for step in range(10_000)])
    assert len(thin) <= MAX_POINTS
    assert {value for _, value in thin} == {0.5}


def test_the_lineage_has_a_box_a_stage_and_escapes_names() -> None:
    nodes = [Node("sft<", "sft, done", "base"), Node("rl", "rl, done", "sft<"), Node("mopd", "mopd, done", "sft<")]
    root = ElementTree.fromstring(lineage_svg(nodes, [TeacherEdge("rl", "mopd", "math & code")]))
    assert len([e for e in root if e.get("class") == "box"]) == 4
    assert [e.text for e in root if e.get("class") == "label"] == ["math & code"]
    assert [e.get("class") for e in root if e.tag == "path"] == ["parent", "parent", "parent", "teacher"]
