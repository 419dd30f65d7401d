r"""What a `\boxed{}` holds."""

from __future__ import annotations

import time

import pytest

from cascade.environments.boxed import boxed, last_boxed


@pytest.mark.parametrize(
    "text, boxes, last",
    [
        (r"\boxed{5}", ["5"], "5"),
        (r"\boxed{\frac{1}{2}} or \boxed {x}", [r"\frac{1}{2}", "x"], "x"),
        (r"\boxed{ B }", [" B "], "B"),
        (r"\boxed{}", [""], ""),
        (r"\\boxed{A}", ["A"], "A"),
        (r"{ \boxed{5}", ["5"], "5"),
        (r"}\boxed{5}}", ["5"], "5"),
        ("none, and \\boxed alone", [], None),
    ],
)
def test_boxes_and_the_last_of_them(text: str, boxes: list[str], last: str | None) -> None:
    assert (boxed(text), last_boxed(text)) == (boxes, last)


def test_an_unclosed_box_is_none_and_hides_none() -> None:
    assert last_boxed(r"\boxed{5") is None
    assert last_boxed(r"\boxed{5} \boxed{6") == "5"
    assert last_boxed(r"\boxed{a \boxed{b}") == "b"


def test_a_box_that_holds_only_a_box_is_looked_through() -> None:
    assert last_boxed(r"\boxed{\boxed{5}}") == "5"
    assert last_boxed(r"\boxed{ \boxed { \boxed{5} } }") == "5"
    assert last_boxed(r"\boxed{3+\boxed{5}}") == r"3+\boxed{5}"
    assert last_boxed(r"\boxed{\boxed{1}\boxed{2}}") == r"\boxed{1}\boxed{2}"


def test_escaped_braces_are_characters() -> None:
    assert last_boxed(r"\boxed{\{1,2\}}") == r"\{1,2\}"
    assert last_boxed(r"\boxed{\left\{ x \right.}") == r"\left\{ x \right."
    assert last_boxed(r"\boxed{a \\{b}}") == r"a \\{b}"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 28_000, "\\boxed" + " " * 200_000, "\\boxed{" + "{" * 200_000, "\\" * 200_000,
        "\\boxed{" * 24_000 + "}" * 24_000, "\\boxed{}" * 24_000, "\ud800\\boxed{\x00" * 20_000,
    ],
    ids=range(7),
)  # fmt: skip
def test_hostile_characters_take_linear_time(text: str) -> None:
    started = time.process_time()
    last_boxed(text)
    assert time.process_time() - started < 2
