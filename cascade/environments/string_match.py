"""Whether a short answer is the expected one, by its words: the conventions of SQuAD, HotpotQA and RULER, and ours."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from cascade.environments.boxed import last_boxed

MAX_CHARS = 2000  # of an answer that is compared: more is no short answer
MAX_EXTRA_WORDS = 24  # besides the expected ones

_PUNCTUATION = {ord(character): None for character in string.punctuation}
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_MARK = re.compile(r"^[\s*_#>-]*(?:final |the )*answer(?: is)?[\s*_]*:[\s*_]*", re.IGNORECASE)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_VERDICTS = {"yes", "no", "noanswer"}  # answers that HotpotQA gives no credit for sharing a word with
_PLAIN = (
    "is was are were be been am it its this that these those he she they his her their there of in on at by to for "
    "from with as about answer final correct called named known has had have did does do"
)  # words that name nothing; `or`, `and`, `not`, `no`, `yes` are left out on purpose
_PLAIN_WORDS = frozenset(_PLAIN.split())
_NAYSAYERS = frozenset(("not", "no", "yes", "nor", "or", "never", "neither", "either", "without", "except"))


def normalised(text: str) -> str:
    """Lower case without punctuation and articles, words one space apart: as SQuAD's and HotpotQA's scorers do."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(candidate: str, answers: Sequence[str]) -> bool:
    """Whether the candidate equals one of the answers after normalisation; an empty one equals nothing."""
    if len(candidate) > MAX_CHARS:
        return False
    found = _comparable(candidate)
    return any(found == _comparable(answer) for answer in answers) if found else False


def f1(candidate: str, answers: Sequence[str]) -> float:
    """Overlap of words with the nearest answer, 0 to 1 (SQuAD); `yes` and `no` only with themselves (HotpotQA)."""
    found = normalised(candidate[:MAX_CHARS])
    return max((_f1(found, normalised(answer)) for answer in answers), default=0.0)


def short_answer(text: str) -> str:
    """What a text gives as its answer: the last `\\boxed{}`, what follows the last `Answer:`, or all of it."""
    end = text[-MAX_CHARS:].rstrip()
    box = last_boxed(end)
    if box is not None:
        return _TEXT.sub(r"\1", box)
    for line in reversed(end.splitlines()):
        mark = _MARK.match(line)
        if mark:
            return line[mark.end() :].strip(" *_`")
    return text.strip() if len(text) <= MAX_CHARS else ""


def said(candidate: str, answers: Sequence[str], question: str = "") -> bool:
    """Whether a candidate gives one of the answers and names nothing else.

    It is the answer itself, or a short sentence around it whose other words come from the question or name nothing,
    e.g. `The Norse leader was Rollo.` to `Who was the Norse leader?`. Where the answer stands in the question itself,
    as in `Which is older, Paris or Rome?`, words of the question name something else, so only the plain ones may stand
    around it. A list of names, a negation or a pasted document is therefore no answer.
    """
    if exact(candidate, answers):
        return True
    if len(candidate) > MAX_CHARS:
        return False
    words, asked = normalised(candidate).split(), normalised(question[-MAX_CHARS:]).split()
    return any(_said(words, normalised(answer).split(), asked) for answer in answers)


def ruler_all(prediction: str, outputs: Sequence[str]) -> float:
    """Share of the outputs that stand in the prediction, whatever their case: RULER's `string_match_all`."""
    lowered = prediction.lower()
    return sum(output.lower() in lowered for output in outputs) / len(outputs)


def ruler_part(prediction: str, outputs: Sequence[str]) -> float:
    """1 where any of the outputs stands in the prediction, whatever their case: RULER's `string_match_part`."""
    lowered = prediction.lower()
    return float(any(output.lower() in lowered for output in outputs))


def _comparable(text: str) -> str:
    """The normalised text; of one that nothing is left of, such as `The The` or `A`, the text in lower case."""
    return normalised(text) or text.strip().lower()


def _f1(found: str, expected: str) -> float:
    if found != expected and (found in _VERDICTS or expected in _VERDICTS):
        return 0.0
    mine, theirs = found.split(), expected.split()
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))


def _said(words: Sequence[str], answer: Sequence[str], asked: Sequence[str]) -> bool:
    if not answer or len(words) > len(answer) + MAX_EXTRA_WORDS:
        return False
    allowed = _PLAIN_WORDS if _find(asked, answer) >= 0 else _PLAIN_WORDS | (set(asked) - _NAYSAYERS)
    at = _find(words, answer)
    if at < 0:
        return False
    return all(word in allowed for word in [*words[:at], *words[at + len(answer) :]])


def _find(words: Sequence[str], wanted: Sequence[str]) -> int:
    """Where the wanted words stand in a row; -1 where they do not."""
    size = len(wanted)
    return next((at for at in range(len(words) - size + 1) if list(words[at : at + size]) == list(wanted)), -1)
