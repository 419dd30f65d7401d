r"""Whether two mathematical answers are equal: as normalised text, and by math-verify where that does not settle it.

math-verify is used as NeMo-Gym's `math_with_judge` uses it: the reference wrapped in `\boxed{}` and read as LaTeX, the
answer read as LaTeX or plain expression. Its own timeouts are off, because they need the main thread and signals; who
calls this must be ready to be killed.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from fractions import Fraction
from typing import Any

MAX_EXPRESSION = 1_000  # characters; no answer to a problem with one answer is longer
MAX_DEPTH = 10  # brackets within brackets: beyond, the parser may take exponential time
MAX_BITS = 1e5  # of a number that is worked out
MAX_DIGITS = 40  # of a number that is compared as text
WARM_UP = (
    r"\frac{1}{2}+\sqrt{3}",
    r"\{1,2\}",
    r"x=-2.5",
    r"[0,\infty)",
    r"50\%",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
)

_DROPPED = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[!,;:()\[\]]|\\?\$")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+(?:\.[0-9]+)?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")

_CLOSERS = r"[\s)}]*"
_POWER = re.compile(
    r"(?:([0-9]{1,9})[\s)}]*)?(?:\^|\*\*)[\s({]*-?([0-9]+)(?:" + _CLOSERS + r"(?:\^|\*\*)[\s({]*([0-9]+))?"
)
_FACTORIAL = re.compile(
    rf"[0-9]{{5}}{_CLOSERS}!|[0-9]{_CLOSERS}!{_CLOSERS}!|\^[\s({{]*[0-9]+[\s)}}]+!|\\[dt]?binom\s*\{{\s*[0-9]{{5}}"
)
_COMPARISON = re.compile(r"\s*(?:\\(?:not|neq?|[gl]eq?|[gl]eqslant|gt|lt)(?![a-zA-Z])|[<>≠≥≤])")
_REMARK = re.compile(r"(?<=[^\s{])\s*\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_DOUBT = re.compile(r"(?<![A-Za-z0-9])[0-9]|\b(?:or|not|maybe|perhaps|possibly|but|either|otherwise)\b", re.IGNORECASE)
_OPERATION = re.compile(
    r"[+*/!^]|(?<=.)-|\\(?:times|cdot|div|frac|sqrt|sum|prod|int|binom|log|ln|sin|cos|tan)(?![a-zA-Z])"
)
_PLAIN_FRACTION = re.compile(
    r"\\frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}|(?<![0-9/])([0-9]{1,40})/([0-9]{1,40})(?![0-9/])"
)


def same_text(gold: str, answer: str) -> bool:
    r"""Whether two answers are the same text but for layout, e.g. `\dfrac{1}{2}` and `\frac {1}{2}`, or `1,250.0` and
    `1250`. Never true of different values; false does not mean that they differ."""
    left, right = normalised(gold), normalised(answer)
    if not left or not right:
        return False
    return left == right or (_is_number(left) and _is_number(right) and Fraction(left) == Fraction(right))


def normalised(text: str) -> str:
    """An answer without what only lays it out: math delimiters, spacing, sizes of brackets, thousands separators."""
    text = _FRACTION.sub(r"\\frac", _DROPPED.sub("", text)).replace("\u2212", "-").replace(r"\%", "%")
    text = _LOOSE_SPACE.sub("", " ".join(text.replace(r"\ ", " ").split())).rstrip(".")
    return text.replace("{,}", "").replace(",", "") if _THOUSANDS.fullmatch(text) else text


def verified(gold: str, answer: str, *, anywhere: bool) -> str | None:
    r"""The part of an answer that math-verify finds equal to the reference; None where it finds none.

    Args:
        gold: the reference, e.g. `\frac{1}{2}`.
        answer: text with the answer in it. It is read to the end: cut it first.
        anywhere: without a box or another mark, take the last formula or number of the text.
    """
    from math_verify import verify

    for_gold, for_box, for_text = _targets()
    expected = _gold(gold, for_gold)
    found = _parsed(answer, for_text if anywhere else for_box)
    if not expected or not found or not verify(expected, found, timeout_seconds=None):
        return None
    return next((str(part) for part in reversed(found) if isinstance(part, str)), answer)


def load() -> None:
    """Imports math-verify and reads a few formulas: seconds, once a process, so that no verdict has to pay for it."""
    _targets()


def costly(expression: str) -> bool:
    """Whether working an expression out may take long: towers of powers, huge factorials, deep nesting, great length.

    It knows the plain cases only; what it does not know is for the deadline.
    """
    if len(expression) > MAX_EXPRESSION or _depth(expression) > MAX_DEPTH or _FACTORIAL.search(expression):
        return True
    return any(_bits(*power.groups()) > MAX_BITS for power in _POWER.finditer(expression))


def hedged(expression: str, gold: str) -> bool:
    r"""Whether an expression takes back what it says: `\neq 42`, or `42\text{ or maybe 43}`, whose text math-verify
    drops as if it were a unit. Not where the reference has the same."""
    if _COMPARISON.match(expression) and not _COMPARISON.match(gold):
        return True
    remarks = (remark[1].strip() for remark in _REMARK.finditer(expression))
    return any(_DOUBT.search(remark) and remark not in ("or", "and") and remark not in gold for remark in remarks)


def restated(expression: str, gold: str, question: str) -> bool:
    """Whether an expression stands in the question as it is and has more left to be worked out than the reference.

    A fraction in lowest terms counts as a number.
    """
    shown = normalised(expression)
    return _operations(shown) > _operations(normalised(gold)) and shown in normalised(question)


@functools.cache
def _targets() -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """What math-verify is to look for in a reference, in a box, and in whole texts."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that timeouts are off, and of every answer
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    latex = LatexExtractionConfig()
    targets = ((latex,), (LatexExtractionConfig(try_extract_without_anchor=False),), (ExprExtractionConfig(), latex))
    for sample in WARM_UP:
        _parsed(f"\\boxed{{{sample}}}", targets[0])
    return targets


@functools.lru_cache(maxsize=4096)
def _gold(gold: str, targets: tuple[Any, ...]) -> list[Any]:
    return _parsed(f"\\boxed{{{gold}}}", targets)


def _parsed(text: str, targets: tuple[Any, ...]) -> list[Any]:
    """What math-verify reads: an expression and its text, the text alone where it does not parse, or nothing."""
    from latex2sympy2_extended.latex2sympy2 import convert_to_pct
    from math_verify import parse

    found = parse(text, targets, parsing_timeout=0)
    if len(found) == 1 and isinstance(found[0], str) and found[0].rstrip(". ").endswith("%"):
        # The grammar for ANTLR 4.9, which Hydra needs, lacks the percent sign; that for newer ones has it.
        value = parse(f"\\boxed{{{found[0].rstrip('. %').rstrip(chr(92))}}}", targets, parsing_timeout=0)
        if value and not isinstance(value[0], str):
            return [convert_to_pct(value[0]), *found]
    return found


def _is_number(text: str) -> bool:
    return len(text) <= MAX_DIGITS and _NUMBER.fullmatch(text) is not None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return deepest


def _bits(base: str | None, exponent: str, top: str | None) -> float:
    """About how many bits base ^ exponent ^ top has; the base is 10 where it is an expression."""
    try:
        return math.log2(max(int(base or 10), 2)) * math.pow(float(exponent), float(top or 1))
    except OverflowError:
        return math.inf


def _operations(text: str) -> int:
    fractions = [(int(found[1] or found[3]), int(found[2] or found[4])) for found in _PLAIN_FRACTION.finditer(text)]
    return len(_OPERATION.findall(text)) - sum(math.gcd(*fraction) == 1 for fraction in fractions)
