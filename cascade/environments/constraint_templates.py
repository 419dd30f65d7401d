"""Constraints that can be laid on any prompt: their wordings, their arguments, and which exclude each other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_WORDS = """
    bridge canal candle carpet castle desert dolphin engine falcon feather forest garden hammer harbour island
    kitchen ladder lantern library marble market meadow mirror mountain orchard pencil pepper picnic pillow pocket
    rabbit ribbon river rocket saddle silver stadium tailor temple ticket tunnel turtle velvet village violin wagon
    walnut window winter
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""What keywords are drawn from: none is part of another, or of the sentences that gold answers are made of."""

LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German", "it": "Italian"}
ENDINGS = (
    "Is there anything else I can do?",
    "That is all there is to it.",
    "Let me know what you decide.",
    "I hope this was of some use.",
)
MARKERS = ("P.S.", "P.P.S")

Draw = Callable[[random.Random, list[str], str], dict[str, Any]]
"""Arguments of one constraint, by a generator, words that no other constraint has (to be popped) and the prompt."""


@dataclass(frozen=True)
class Template:
    """One kind of constraint: ways to say it, with its arguments in braces, and how to draw these."""

    wordings: tuple[str, ...]
    draw: Draw = lambda rng, words, prompt: {}

    def said(self, rng: random.Random, arguments: Mapping[str, Any]) -> str:
        shown = {key: _shown(value) for key, value in arguments.items()}
        return rng.choice(self.wordings).format(**shown)


def conflicting(first: str, second: str) -> bool:
    """Whether two kinds are never asked for together."""
    if first == second or any(first in group and second in group for group in EXCLUSIVE):
        return True
    for one, other in ((first, second), (second, first)):
        if other in APART.get(one, ()) or (one in ALONE_BUT_FOR and other not in ALONE_BUT_FOR[one]):
            return True
    return False


def draw_constraints(
    rng: random.Random, ids: Iterable[str], count: int, prompt: str
) -> list[tuple[str, dict[str, Any]]]:
    """Up to `count` constraints of kinds that go together, with arguments of which none repeats another's words."""
    words = rng.sample(WORDS, len(WORDS))
    chosen: list[str] = []
    for key in rng.sample(sorted(ids), len(sorted(ids))):
        if len(chosen) < count and not any(conflicting(key, other) for other in chosen):
            chosen.append(key)
    return [(key, TEMPLATES[key].draw(rng, words, prompt)) for key in chosen]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f'"{each}"' for each in value)
    return "fewer than" if value == "less than" else LANGUAGES.get(value, str(value))


def _relation(rng: random.Random) -> str:
    return rng.choice(("at least", "less than"))


def _number(key: str, low: int, high: int) -> Draw:
    return lambda rng, words, prompt: {key: rng.randint(low, high)}


def _keywords(key: str, low: int, high: int) -> Draw:
    return lambda rng, words, prompt: {key: sorted(words.pop() for _ in range(rng.randint(low, high)))}


def _word(key: str) -> Draw:
    return lambda rng, words, prompt: {key: words.pop()}


def _frequency(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    return {"keyword": words.pop(), "frequency": rng.randint(2, 4), "relation": _relation(rng)}


def _letter(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"letter": rng.choice("bcdfghklmpvwy"), "let_frequency": rng.randint(4, 12), "let_relation": "at least"}
    return {"letter": rng.choice("jqxz"), "let_frequency": rng.randint(2, 4), "let_relation": "less than"}


def _sentences(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    relation = _relation(rng)
    return {"num_sentences": rng.randint(*((3, 12) if relation == "at least" else (12, 24))), "relation": relation}


def _length(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    relation = _relation(rng)
    return {"num_words": 10 * rng.randint(*((4, 25) if relation == "at least" else (15, 30))), "relation": relation}


def _word_range(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    low = 10 * rng.randint(6, 25)
    return {"min_words": low, "max_words": low + 10 * rng.randint(3, 6)}


def _nth_paragraph(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    count = rng.randint(2, 5)
    return {"num_paragraphs": count, "nth_paragraph": rng.randint(1, count), "first_word": words.pop()}


def _sections(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    return {"section_spliter": rng.choice(("Section", "SECTION", "Part")), "num_sections": rng.randint(2, 5)}


def _capitals(rng: random.Random, words: list[str], prompt: str) -> dict[str, Any]:
    relation = _relation(rng)
    return {
        "capital_frequency": rng.randint(*((2, 8) if relation == "at least" else (8, 16))),
        "capital_relation": relation,
    }


TEMPLATES: dict[str, Template] = {
    "keywords:existence": Template(
        ("Work the words {keywords} into your answer.", "Your answer has to mention {keywords}.", "Use {keywords}."),
        _keywords("keywords", 1, 3),
    ),
    "keywords:frequency": Template(
        (
            'The word "{keyword}" should come up {relation} {frequency} times.',
            'Write "{keyword}" {relation} {frequency} times in all.',
        ),
        _frequency,
    ),
    "keywords:forbidden_words": Template(
        ("Avoid the words {forbidden_words}.", "None of these words may occur: {forbidden_words}."),
        _keywords("forbidden_words", 1, 4),
    ),
    "keywords:letter_frequency": Template(
        (
            'The letter "{letter}" has to occur {let_relation} {let_frequency} times.',
            'Use the letter "{letter}" {let_relation} {let_frequency} times, small or capital.',
        ),
        _letter,
    ),
    "length_constraints:number_sentences": Template(
        ("Answer in {relation} {num_sentences} sentences.", "Write {relation} {num_sentences} sentences."), _sentences
    ),
    "length_constraints:number_words": Template(
        ("Keep to {relation} {num_words} words.", "The answer should have {relation} {num_words} words."), _length
    ),
    "length_constraints:number_paragraphs": Template(
        (
            "Divide your answer into exactly {num_paragraphs} paragraphs with a line of asterisks (***) between them.",
            "Write {num_paragraphs} paragraphs, and put *** between one and the next.",
        ),
        _number("num_paragraphs", 2, 6),
    ),
    "length_constraints:nth_paragraph_first_word": Template(
        (
            "Write {num_paragraphs} paragraphs with one blank line between them, and blank lines nowhere else; "
            'paragraph {nth_paragraph} begins with the word "{first_word}".',
            "Blank lines (two line breaks) separate exactly {num_paragraphs} paragraphs, of which number "
            '{nth_paragraph} has "{first_word}" as its first word.',
        ),
        _nth_paragraph,
    ),
    "detectable_content:number_placeholders": Template(
        (
            "Leave at least {num_placeholders} placeholders in square brackets, such as [name], to be filled in.",
            "Put {num_placeholders} or more placeholders like [date] into the text.",
        ),
        _number("num_placeholders", 1, 4),
    ),
    "detectable_content:postscript": Template(
        ("Close with a postscript that begins with {postscript_marker}", "Add a postscript marked {postscript_marker}"),
        lambda rng, words, prompt: {"postscript_marker": rng.choice(MARKERS)},
    ),
    "detectable_format:number_bullet_lists": Template(
        (
            'Include exactly {num_bullets} bullet points, each on a line of its own that begins with "* ".',
            "Have {num_bullets} markdown bullet points, no more and no fewer, in the form:\n* a point",
        ),
        _number("num_bullets", 2, 6),
    ),
    "detectable_format:number_highlighted_sections": Template(
        (
            "Set at least {num_highlights} passages in *italics* by markdown asterisks.",
            "Highlight {num_highlights} or more phrases *like this*.",
        ),
        _number("num_highlights", 1, 5),
    ),
    "detectable_format:multiple_sections": Template(
        (
            'Arrange the answer in {num_sections} sections headed "{section_spliter} 1", "{section_spliter} 2" etc.',
            'There should be {num_sections} sections; open each with "{section_spliter}" and its number.',
        ),
        _sections,
    ),
    "detectable_format:json_format": Template(
        ("Give the whole answer as JSON and nothing else.", "Your entire output must be one valid JSON value.")
    ),
    "detectable_format:title": Template(
        (
            "Give your answer a title in double angle brackets, like <<a fine day>>.",
            "Start with a <<title in such brackets>>.",
        )
    ),
    "combination:two_responses": Template(
        (
            "Offer two different answers with ****** (six asterisks) between them and nowhere else.",
            "Answer twice, in two different ways, and separate both by six asterisks: ******",
        )
    ),
    "combination:repeat_prompt": Template(
        (
            "Before you answer, repeat everything above this line word for word, with nothing in front of it.",
            "Begin by repeating the request above without any change, then answer it.",
        ),
        lambda rng, words, prompt: {"prompt_to_repeat": prompt},
    ),
    "startend:end_checker": Template(
        (
            'The last words of your answer are exactly: "{end_phrase}"',
            'Finish with the phrase "{end_phrase}" and nothing after it.',
        ),
        lambda rng, words, prompt: {"end_phrase": rng.choice(ENDINGS)},
    ),
    "startend:quotation": Template(
        ("Put the whole answer between double quotation marks.", 'Begin and end the answer with a " character.')
    ),
    "change_case:capital_word_frequency": Template(
        (
            "Words in ALL CAPITALS should occur {capital_relation} {capital_frequency} times.",
            "Write {capital_relation} {capital_frequency} words in capital letters only.",
        ),
        _capitals,
    ),
    "change_case:english_capital": Template(
        ("Answer in English, in capital letters only.", "Write everything in English AND IN CAPITALS.")
    ),
    "change_case:english_lowercase": Template(
        ("Answer in English without a single capital letter.", "use only lowercase letters, and write in english.")
    ),
    "punctuation:no_comma": Template(("Do without commas.", "No commas anywhere in the answer, please.")),
    "language:response_language": Template(
        ("Answer in {language} only.", "The entire answer must be in {language}."),
        lambda rng, words, prompt: {"language": rng.choice(sorted(LANGUAGES))},
    ),
    "keywords:word_once": Template(
        ('Use the word "{keyword}" exactly once.', '"{keyword}" must occur one time and not again.'), _word("keyword")
    ),
    "count:count_increment_word": Template(
        (
            'Use "{keyword1}" once and "{keyword2}" twice.',
            '"{keyword1}" occurs exactly once, "{keyword2}" exactly two times.',
        ),
        lambda rng, words, prompt: {"keyword1": words.pop(), "keyword2": words.pop()},
    ),
    "first_word:first_word_answer": Template(
        ('Your first word is "{first_word}".', 'Begin the answer with the word "{first_word}".'), _word("first_word")
    ),
    "last_word:last_word_answer": Template(
        ('Your last word is "{last_word}".', 'End the answer with the word "{last_word}".'), _word("last_word")
    ),
    "paragraphs:paragraphs2": Template(
        ("Write two paragraphs with one blank line between them.", "Exactly one blank line, and so two paragraphs.")
    ),
    "punctuation:punctuation_dot": Template(
        ("Do not use full stops, or dots of any kind.", "No dots (.) at all."),
    ),
    "punctuation:punctuation_exclamation": Template(("Do not use exclamation marks.", "Leave out every ! please.")),
    "letters:letter_counting": Template(
        ("Write {relation} {N} letters.", "The answer is to have {relation} {N} letters of the alphabet."),
        lambda rng, words, prompt: {"N": 100 * rng.randint(2, 8), "relation": "at least"},
    ),
    "count:word_count_range": Template(
        ("Write between {min_words} and {max_words} words.", "Length: {min_words} to {max_words} words."), _word_range
    ),
    "count:unique_word_count": Template(
        ("Use at least {N} different words.", "{N} or more distinct words should occur."), _number("N", 20, 60)
    ),
    "count:numbers": Template(
        ("Exactly {N} numbers, written in digits, should occur.", "Have {N} numbers in digits, no more and no fewer."),
        _number("N", 2, 6),
    ),
    "count:conjunctions": Template(
        ("Use at least {small_n} different coordinating conjunctions (and, but, for, nor, or, so, yet).",),
        _number("small_n", 3, 6),
    ),
    "count:pronouns": Template(("Use at least {N} personal or possessive pronouns.",), _number("N", 4, 20)),
    "sentence:keyword": Template(
        ('Sentence number {N} must contain the word "{word}".', 'Let "{word}" occur in the {N}. sentence.'),
        lambda rng, words, prompt: {"word": words.pop(), "N": rng.randint(2, 8)},
    ),
    "format:parentheses": Template(("Nest brackets of any kind (like [this]) at least five deep somewhere.",)),
    "format:output_template": Template(
        ("Fill in this template: My Answer: [answer] My Conclusion: [conclusion] Future Outlook: [outlook]",)
    ),
}

IFBENCH_IDS = tuple(
    key
    for key in TEMPLATES
    if key.split(":")[0] in ("count", "sentence", "format") and key != "count:count_increment_word"
)
"""Kinds that IFBench tests models on which were not trained on them."""

DEFAULT_IDS = tuple(key for key in TEMPLATES if key not in IFBENCH_IDS)

EXCLUSIVE: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        # how the answer is divided
        "length_constraints:number_paragraphs length_constraints:nth_paragraph_first_word paragraphs:paragraphs2 "
        "detectable_format:multiple_sections combination:two_responses format:output_template",
        # capitals and language
        "change_case:english_capital change_case:english_lowercase change_case:capital_word_frequency "
        "language:response_language",
        # what stands first
        "combination:repeat_prompt detectable_format:title first_word:first_word_answer startend:quotation "
        "format:output_template detectable_format:json_format",
        # what stands last
        "startend:end_checker last_word:last_word_answer detectable_content:postscript startend:quotation",
        # how long it is
        "length_constraints:number_words count:word_count_range letters:letter_counting",
    )
)

APART: dict[str, frozenset[str]] = {
    key: frozenset(others.split())
    for key, others in {
        "punctuation:punctuation_dot": "length_constraints:number_sentences detectable_content:postscript "
        "sentence:keyword startend:end_checker",
        "detectable_format:multiple_sections": "count:numbers language:response_language change_case:english_capital "
        "change_case:english_lowercase sentence:keyword first_word:first_word_answer",
        "length_constraints:nth_paragraph_first_word": "detectable_format:title first_word:first_word_answer",
        "language:response_language": "keywords:existence keywords:frequency keywords:word_once "
        "keywords:forbidden_words count:count_increment_word startend:end_checker first_word:first_word_answer "
        "last_word:last_word_answer length_constraints:nth_paragraph_first_word detectable_content:postscript "
        "detectable_format:title detectable_content:number_placeholders combination:repeat_prompt "
        "count:conjunctions count:pronouns sentence:keyword format:output_template keywords:letter_frequency",
        "format:output_template": "change_case:english_capital change_case:english_lowercase",
    }.items()
}

ALONE_BUT_FOR: dict[str, frozenset[str]] = {
    key: frozenset(others.split())
    for key, others in {
        "detectable_format:json_format": "keywords:existence keywords:frequency keywords:forbidden_words "
        "keywords:word_once count:count_increment_word length_constraints:number_words change_case:english_lowercase "
        "punctuation:punctuation_exclamation",
        "combination:repeat_prompt": "keywords:existence keywords:forbidden_words length_constraints:number_words "
        "detectable_content:number_placeholders detectable_content:postscript startend:end_checker "
        "last_word:last_word_answer detectable_format:number_highlighted_sections",
    }.items()
}
