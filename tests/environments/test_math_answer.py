"""Equality of mathematical answers: what counts, what does not, and what is not even worked out."""

from __future__ import annotations

import time

import pytest

from cascade.environments.math_answer import costly, hedged, restated, same_text, verified


def equal(gold: str, answer: str) -> bool:
    return verified(gold, f"\\boxed{{{answer}}}", anywhere=False) is not None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", r"\dfrac{1}{2}"), (r"\frac{1}{2}", r"\frac {1} {2}"), ("1250", "1,250"), ("1250", "1{,}250.0"),
        ("5", r"\$5.00"), ("5", "$5$"), ("-3", "\u22123"), ("50%", r"50\%"), (r"(1, 2)", r"\left(1,2\right)"),
        ("0.5", ".5"), ("42", "42."), (r"\pi r", r"\pi  r"),
    ],
)  # fmt: skip
def test_layout_makes_no_difference_to_the_text(gold: str, answer: str) -> None:
    assert same_text(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("42", "4 2"), ("42", "4\u200b2"), ("42", "４２"), ("12", "1,2"), ("1,2", "12"), ("", ""), ("$", "$"), ("1", "1%"),
     (r"\pi r", r"\pir"), ("9" * 50, "9" * 49 + "8"), ("A", "a"), ("-5", "5"), ("0.1", "0.10000001")],
)  # fmt: skip
def test_text_that_may_differ_is_never_called_the_same(gold: str, answer: str) -> None:
    assert not same_text(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # fractions, decimals, mixed numbers
        (r"\frac{1}{2}", r"\frac{2}{4}"), ("1/2", "0.5"), ("1/3", "0.333333"), ("1.5", r"1\frac{1}{2}"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"\frac{1}{2}", r"\frac12"), ("123000", r"1.23\times 10^5"),
        # roots, constants, logarithms, counting
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}"), (r"\sqrt{2}+1", r"1+\sqrt{2}"), (r"\pi", "3.14159265"),
        (r"\log_2 8", "3"), (r"\binom{5}{2}", "10"), ("5!", "120"), ("1024", "2^{10}"),
        # sets, tuples, intervals, matrices
        (r"\{1,2\}", r"\{2,1\}"), (r"\{1,2\}", "2, 1"), (r"6\text{ and }7", "7, 6"), ("(1,2)", r"\left(1, 2\right)"),
        (r"(-\infty,1)\cup(2,\infty)", r"(-\infty,1)\cup(2,+\infty)"), (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
        # equations, inequalities, algebra
        ("42", "x=42"), ("x=5", "5"), ("y=2x+1", "y=1+2x"), ("y=2x+1", "2x+1"), (r"x \leq 2", r"2 \geq x"),
        (r"x\le 2", r"(-\infty,2]"), ("x^2+1", "1+x^2"), ("(x+1)^2", "x^2+2x+1"), ("3+4i", "4i+3"),
        # units, percent, degrees, money, words
        ("5", r"5\text{ cm}"), (r"5\text{ cm}", "5"), ("5", r"5\text{ cm}^2"), (r"90^\circ", "90"), ("10", r"\$10"),
        ("50", r"50\%"), (r"50\%", "0.5"), ("0.42", r"42\%"), (r"50\%", r"50\%"),
        (r"\text{Monday}", "Monday"), ("A", r"\text{(A)}"), (r"\emptyset", r"\emptyset"), ("3:4", r"\frac{3}{4}"),
    ],
)  # fmt: skip
def test_ways_to_write_an_equal_answer(gold: str, answer: str) -> None:
    assert equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "43"), ("-3", "3"), ("1/3", "0.33"), (r"\pi", "3.14"), (r"\sqrt{2}", "1.41"), ("42", r"42 \pm 1"),
        ("42", "42 or 43"), ("42", r"42\text{ or }43"), ("42", "41, 42"), ("42", r"\{41,42\}"), ("42", "[41,43]"),
        ("42", "42-50"), ("42", "x=41, x=42"), ("42", r"x \in \{41,42\}"), ("42", "42;43"), ("42", "42 43"),
        ("1,2", "1,2,3"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"), ("42", ""), ("42", "?"), ("42", "x"), ("42", "nan"),
        ("42", r"\infty"), ("42", r"\frac{42}{0}"), ("42", "anything"), ("Yes", r"\text{No}"), ("x", "y"),
        ("A", "ABCD"), ("A", "A, B"), ("42", "4\u200b2"), ("42", "４２"), (r"\text{even}", r"\text{odd}"),
        ("y=2x+1", "0=0"), (r"x\le 2", r"\mathbb{R}"), (r"50\%", "5"), ("42", r"\phantom{43}42"), ("42", r"42 \cup 43"),
    ],
)  # fmt: skip
def test_answers_that_are_not_equal(gold: str, answer: str) -> None:
    assert not equal(gold, answer)


def test_a_box_alone_counts_where_only_boxes_do() -> None:
    assert verified("18", "A: 18", anywhere=True) is not None
    assert verified("18", "A: 18", anywhere=False) is None
    assert verified("18", "The answer is $18$.", anywhere=True) is not None


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}", "9^9^9^9", "9**9**9**9", "(10^9)^{10^9}", "2^{1000000000}", "10^{-999999999}", "x^{99999}",
        "1000000!", "(10^6)!", "42!!", "((42)!)!", r"\binom{1000000}{500000}", "(" * 11 + "1" + ")" * 11,
        "{" * 100_000 + "}" * 100_000, "1" * 1001, r"\frac{1}{" * 35 + "2" + "}" * 35,
    ],
)  # fmt: skip
def test_what_would_take_long_to_work_out_is_known_at_once(answer: str) -> None:
    started = time.perf_counter()
    assert costly(answer)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "answer",
    ["2^{2016}", r"\frac{(3-\sqrt{3})(2-\sqrt{3})^{2016}+(3+\sqrt{3})(2+\sqrt{3})^{2016}}{6}", "(n+1)!", "2015!",
     "e^{x^2}", "2^{2^{10}}", r"\binom{2016}{1008}", "9" * 900, r"2^{n^2}", "4!+3!", r"\left(\frac{1}{2}\right)^{10}"],
)  # fmt: skip
def test_answers_that_occur_are_not_costly(answer: str) -> None:
    assert not costly(answer)


def test_an_answer_that_takes_itself_back_is_hedged() -> None:
    for answer in (r"\neq 42", r"\geq 42", "≠42", r"42\text{ or maybe 43}", r"42 \text{ (if not, then 43)}"):
        assert hedged(answer, "42")
    for answer in ("42", "-42", r"42\text{ cm}", r"42\text{ cm}^2", r"x \geq 42", r"\text{42}", r"2\text{ or }3"):
        assert not hedged(answer, "42")
    assert not hedged(r"\geq 42", r"\ge 42")


def test_the_expression_of_the_question_is_no_answer_where_the_reference_is_simpler() -> None:
    assert restated(r"6 \times 7", "42", r"Compute $6 \times 7$.")
    assert restated(r"\frac{1}{\sqrt{2}-1}", r"\sqrt{2}+1", r"Simplify $\frac{1}{\sqrt{2} - 1}$.")
    assert restated(r"\frac{84}{2}", "42", r"Simplify $\frac{84}{2}$.")
    assert not restated(r"\frac{1}{2}", "0.5", r"With probability $\frac{1}{2}$ it rains.")
    assert not restated("1+x^2", "x^2+1", "Which is positive, $1+x^2$ or $x$?")
    assert not restated("42", "42", "Is it 42?")
    assert not restated("2^{10}", "1024", "How many subsets has a set of 10?")
