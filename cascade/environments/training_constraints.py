"""The 29 kinds that open-instruct adds to IFEval's for training (IFEvalG), by their published definitions.

NVIDIA's instruction-following rows (NeMo-Gym's server of that name) use them beside IFEval's. Oddities of the
reference are kept: what it rewards is what others' verdicts say.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def repeat_phrase(answer: str, *, phrase: str, small_n: int) -> bool:
    """The phrase that often, each with at most one word changed, and the last with exactly one."""
    expected = phrase.split()
    pattern = re.compile(rf"{expected[0]} .*? {expected[-1]}")
    found = []
    for match in pattern.finditer(answer):
        found.append(match[0].split())
        if len(found) > small_n:
            return False
    if len(found) != small_n or any(len(words) != len(expected) for words in found):
        return False
    changed = [sum(a != b for a, b in zip(words, expected, strict=True)) for words in found]
    return max(changed) <= 1 and changed[-1] == 1


def copy(answer: str, *, prompt_to_repeat: str) -> bool:
    return answer.strip().lower() == prompt_to_repeat.strip().lower()


def copying_multiple(answer: str, *, prompt_to_repeat: str, N: int) -> bool:
    copies = answer.split("******")
    return len(copies) == N and all(copy(each, prompt_to_repeat=prompt_to_repeat) for each in copies)


def copy_span(answer: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """Characters n_start to n_end of the prompt, the last left out."""
    return answer.strip().lower() == prompt_to_repeat[n_start:n_end].strip().lower()


def sentence_hyphens(answer: str) -> bool:
    """The pieces between hyphens are the sentences, as far as both go."""
    pieces = zip(answer.split("-"), _sentences(answer.replace("-", " ")), strict=False)
    return all(piece.strip() == piece == sentence for piece, sentence in pieces)


def no_adjacent_consecutive(answer: str) -> bool:
    """No word begins with the letter after that of the word before it."""
    firsts = [word[0].lower() for word in answer.split()]
    if len(firsts) > 1 and any(len(first) != 1 for first in firsts):  # a few capitals are two characters in lower case
        return False
    return all(ord(second) - ord(first) != 1 for first, second in pairwise(firsts))


def square_brackets(answer: str) -> bool:
    return all(word.startswith("[") and word.endswith("]") for word in answer.split())


def bigram_wrapping(answer: str) -> bool:
    words = answer.split()
    pairs = zip(words[::2], words[1::2], strict=False)
    return all(first.startswith("<<") and second.endswith(">>") for first, second in pairs)


def word_once(answer: str, *, keyword: str) -> bool:
    return _occurrences(keyword, answer) == 1


def keyword_frequency(answer: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _related(_occurrences(keyword, answer), relation, frequency)


def count_increment_word(answer: str, *, keyword1: str, keyword2: str) -> bool:
    return _occurrences(keyword1, answer) == 1 and _occurrences(keyword2, answer) == 2


def exclude_word_harder(answer: str, *, keyword: str, instruction: str | None = None) -> bool:
    """The keyword with a blank on both sides; not at a line's end or before punctuation."""
    return f" {keyword.strip()} " not in answer


def two_paragraphs(answer: str) -> bool:
    return _blocks(_DIVIDER.split(answer)) == 2


def two_paragraphs_by_blank_lines(answer: str) -> bool:
    return _blocks(answer.split("\n\n")) == 2


def first_word_of_sentences(answer: str, *, first_word: str) -> bool:
    wanted = first_word.strip().lower()
    return all(sentence and sentence.split()[0].lower() == wanted for sentence in _sentences(answer))


def first_word(answer: str, *, first_word: str) -> bool:
    return answer.split()[0].lower() == first_word.strip().lower()


def last_word_of_sentences(answer: str, *, last_word: str) -> bool:
    wanted = last_word.strip().lower()
    return all(sentence and _bare(sentence.split()[-1]) == wanted for sentence in _sentences(answer))


def last_word(answer: str, *, last_word: str) -> bool:
    return _bare(answer.split()[-1]) == last_word.strip().lower()


def no_dot(answer: str) -> bool:
    return "." not in answer


def no_exclamation(answer: str) -> bool:
    return "!" not in answer


def lowercase_words(answer: str, *, N: int) -> bool:
    """At most N words of a to z alone."""
    return len(re.findall(r"\b[a-z]+\b", answer)) <= N


def letters(answer: str, *, N: int, relation: str) -> bool:
    return _related(len(re.findall(r"[a-zA-Z]", answer)), relation, N)


def composition(answer: str, *, n_sent: int, n_words: int) -> bool:
    """Three paragraphs between `***`, each of n_sent sentences of n_words tokens (punctuation counts as one)."""
    for paragraph in (found := _DIVIDER.split(answer)):
        sentences = _sentences(paragraph)
        if len(sentences) != n_sent or any(len(_tokens(sentence)) != n_words for sentence in sentences):
            return False
    return len(found) == 3


def all_unique(answer: str) -> bool:
    """No token twice, punctuation included."""
    tokens = _tokens(answer)
    return len(tokens) == len(set(tokens))


def palindrome(answer: str) -> bool:
    """Some word equals its reverse; a single letter does."""
    return any(word == word[::-1] for word in answer.split())


def keyword_position(answer: str, *, keyword: str, n: int, m: int) -> bool:
    """The keyword is token m of sentence n, counted from 1."""
    sentences = _sentences(answer)
    tokens = _tokens(sentences[n - 1]) if len(sentences) >= n else []
    return len(tokens) >= m and tokens[m - 1] == keyword.strip()


def start_end(answer: str) -> bool:
    tokens = _tokens(answer)
    return len(tokens) > 1 and tokens[0].lower() == tokens[-1].lower()


def _occurrences(keyword: str, answer: str) -> int:
    return len(re.findall(keyword.strip(), answer, flags=re.IGNORECASE))


def _related(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _blocks(parts: list[str]) -> int:
    """How many parts there are, an empty first or last one not counted; 0 where one between them is empty."""
    filled = [bool(part.strip()) for part in parts]
    return sum(filled) if all(filled[1:-1]) else 0


def _bare(word: str) -> str:
    return re.sub(r"[^\w\s]", "", word).lower()


def _sentences(text: str) -> list[str]:
    from if_verifiable.ifeval.instructions_util import split_into_sentences

    return split_into_sentences(text)


def _tokens(text: str) -> list[Any]:
    import nltk

    return nltk.word_tokenize(text)


TRAINING = {
    "copy:repeat_phrase": repeat_phrase,
    "copy:copy": copy,
    "copy:copying_simple": copy,
    "copy:copying_multiple": copying_multiple,
    "new:copy_span_idx": copy_span,
    "detectable_format:sentence_hyphens": sentence_hyphens,
    "detectable_format:square_brackets": square_brackets,
    "detectable_format:bigram_wrapping": bigram_wrapping,
    "keywords:no_adjacent_consecutive": no_adjacent_consecutive,
    "keywords:word_once": word_once,
    "keywords:word_count_different_numbers": keyword_frequency,
    "keywords:exclude_word_harder": exclude_word_harder,
    "keywords:palindrome": palindrome,
    "keywords:keyword_specific_position": keyword_position,
    "keywords:start_end": start_end,
    "paragraphs:paragraphs": two_paragraphs,
    "paragraphs:paragraphs2": two_paragraphs_by_blank_lines,
    "first_word:first_word_sent": first_word_of_sentences,
    "first_word:first_word_answer": first_word,
    "last_word:last_word_sent": last_word_of_sentences,
    "last_word:last_word_answer": last_word,
    "punctuation:punctuation_dot": no_dot,
    "punctuation:punctuation_exclamation": no_exclamation,
    "count:lowercase_counting": lowercase_words,
    "letters:letter_counting": letters,
    "count:counting_composition": composition,
    "count:count_unique": all_unique,
    "count:count_increment_word": count_increment_word,
}
