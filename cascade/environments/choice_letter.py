r"""The letter that an answer to a multiple-choice question chooses.

The ways to read it are those of NeMo-Gym's `mcqa` server (Apache-2.0), each in time linear in the answer. One thing is
otherwise: of several boxes with a letter the last one counts, as the paper says, where the server takes the first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cascade.errors import FailureKind, VerifierFailure

if TYPE_CHECKING:
    import regex

MODES = ("strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon", "lenient_answer_colon_md")
PATTERN_TIMEOUT_S = 0.2  # an answer on which a row's pattern takes longer was made for that
MAX_LINE = 10_000  # characters behind `Answer:` that may still be the text of an option
_BOX = "\\boxed{"
# Between brace and letter, and behind it, anything but an ASCII letter: `\boxed{ (B). }` yes, `\boxed{A or B}` no.
_LETTER_BOX = re.compile(r"\\boxed\{[^A-Za-z]*+([A-Z])[^A-Za-z]*\}")
_COLON = re.compile(r"(?i)answer\s*:\s*(.+)")
_COLON_MD = re.compile(r"(?i)[*_]{0,2}Answer[*_]{0,2}\s*:[*_\s]{0,2}\s*([A-Z])(?![a-zA-Z0-9])")
_TEXT = "\\text{"
_LOCAL = str.maketrans(
    {letter: f" {latin}" for local in ("أبجد", "অবডঢ", "ＡＢＣＤ") for letter, latin in zip(local, "ABCD", strict=True)}
)  # letters of options in Arabic and Bengali translations, and full-width ones


def grade(answer: str, expected: str, letters: str) -> bool:
    r"""Whether the last `\boxed{}` with a single letter has the expected one, of `letters`, e.g. `"ABCD"`."""
    return boxed_letter(answer, letters) == expected


def chosen(answer: str, options: Mapping[str, str], mode: str = MODES[0], patterns: Sequence[str] = ()) -> str | None:
    """The letter an answer chooses, or None.

    Args:
        options: letter -> text; the letters are capitals.
        mode: one of `MODES`, which is tried where no pattern finds a letter.
        patterns: a row's own regular expressions, tried in order. The last match of one counts.

    Raises:
        VerifierFailure: the model's own fault, where a pattern takes longer than `PATTERN_TIMEOUT_S` on the answer.
    """
    for pattern in patterns:
        if letter := _by_pattern(answer, pattern, options):
            return letter
    if mode == "lenient_answer_colon":
        return _behind_colon(answer, options)
    if mode == "lenient_answer_colon_md":
        found = _COLON_MD.search(answer)
        return found[1].upper() if found and found[1].upper() in options else None
    letter = boxed_letter(answer, options)
    return _boxed_text(answer, options) if letter is None and mode == "lenient_boxed" else letter


def boxed_letter(answer: str, letters: str | Mapping[str, str]) -> str | None:
    r"""The capital letter in the last `\boxed{}` that holds a single letter; None where it is none of `letters`."""
    at = answer.rfind(_BOX)
    while at >= 0:
        if found := _LETTER_BOX.match(answer, at):
            return found[1] if found[1] in letters else None
        at = answer.rfind(_BOX, 0, at)
    return None


def _boxed_text(answer: str, options: Mapping[str, str]) -> str | None:
    """The one option whose text is within the last box, which is read up to its first closing brace."""
    begin = answer.rfind(_BOX, 0, answer.rfind("}") + 1)
    if begin < 0:
        return None
    begin += len(_BOX)
    content = _plain(answer[begin : answer.index("}", begin)])
    matches = {letter for letter, text in options.items() if (plain := _plain(text)) and plain in content}
    return matches.pop() if len(matches) == 1 else None


def _behind_colon(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter, or the whole text of an option, behind the first `Answer:`."""
    found = _COLON.search(answer)
    if not found or len(found[1]) > MAX_LINE:
        return None
    said = _unwrapped(found[1]).strip()
    if len(said) == 1 and said.isalpha() and said.upper() in options:
        return said.upper()
    return _option_named(said, options)


def _by_pattern(answer: str, pattern: str, options: Mapping[str, str]) -> str | None:
    """What the last match of a row's pattern chooses: a letter, which is trusted, or the whole text of an option."""
    compiled = compile_pattern(pattern)
    if compiled is None:
        return None
    try:
        matches = compiled.findall(answer, timeout=PATTERN_TIMEOUT_S)
    except TimeoutError:
        raise VerifierFailure(FailureKind.TASK, f"{pattern[:60]!r} took longer than {PATTERN_TIMEOUT_S} s") from None
    if not matches:
        return None
    said = matches[-1].strip().translate(_LOCAL).strip().upper()
    return said if len(said) == 1 and said.isalpha() else _option_named(said, options)


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> regex.Pattern[str] | None:
    """A row's pattern, for both cases of letters; None for one that is no regular expression."""
    import regex  # 40 ms, and only rows with patterns of their own need it: it can be timed out, unlike `re`

    try:
        return regex.compile(pattern, regex.IGNORECASE | regex.VERSION0)
    except regex.error:
        return None


def _option_named(text: str, options: Mapping[str, str]) -> str | None:
    said = _plain(text)
    return next((letter for letter, option in options.items() if _plain(option) == said), None)


def _unwrapped(text: str) -> str:
    while text.startswith(_TEXT) and text.endswith("}"):
        text = text[len(_TEXT) : -1].strip()
    return text


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
