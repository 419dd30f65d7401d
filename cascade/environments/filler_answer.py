"""Answers of filler text that follow given constraints: the gold answers of generated rows, and nothing more.

They show that a row can be met and that its verifier says so. As demonstrations they teach only the form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice, pairwise
from typing import Any

Wanted = Sequence[tuple[str, Mapping[str, Any]]]
"""Constraints as instruction id and arguments."""

WORDS_A_SENTENCE = 8  # of the English filler, about

FILLER = {
    "en": (
        "There are several useful things to say about this.",
        "Each of them deserves a closer look.",
        "The first point is simple and easy to follow.",
        "Another one takes a little more care.",
        "People often learn this by doing it themselves.",
        "A small plan helps when time is short.",
        "Good results come from steady and patient work.",
        "It is wise to ask others for their advice.",
        "Some parts can be done in any order.",
        "Others depend on what was done before.",
        "Mistakes are normal and can be put right.",
        "In the end the choice is yours to make.",
        "That is why a clear goal matters so much.",
        "With these steps most people will get there.",
    ),
    "es": (
        "Hay varias cosas que conviene decir sobre este asunto.",
        "Lo primero es muy sencillo de entender para todos.",
        "Después hace falta un poco más de trabajo y paciencia.",
        "La mayoría de las personas aprende mucho de esta manera.",
    ),
    "fr": (
        "Il y a plusieurs choses utiles à dire sur ce sujet.",
        "La première est très simple et facile à comprendre.",
        "Ensuite il faut un peu plus de travail et de patience.",
        "La plupart des gens apprennent beaucoup de cette façon.",
    ),
    "de": (
        "Es gibt mehrere nützliche Dinge dazu zu sagen.",
        "Der erste Punkt ist sehr einfach und leicht zu verstehen.",
        "Danach braucht man etwas mehr Arbeit und auch Geduld.",
        "Die meisten Menschen lernen auf diese Weise sehr viel.",
    ),
    "it": (
        "Ci sono diverse cose utili da dire su questo argomento.",
        "La prima è molto semplice e facile da capire.",
        "Dopo serve un po' più di lavoro e anche di pazienza.",
        "La maggior parte delle persone impara molto in questo modo.",
    ),
}


def least_padding(wanted: Wanted) -> int:
    """Filler sentences from which on the constraints on length can be met."""
    need = 2
    for _, given in wanted:
        words = given.get("num_words", 0) if given.get("relation") == "at least" else given.get("min_words", 0)
        sentences = given.get("num_sentences", 0) if given.get("relation") == "at least" else 0
        blocks = max(given.get(key, 0) for key in ("num_paragraphs", "num_sections"))
        need = max(need, math.ceil(words / WORDS_A_SENTENCE) - 6, sentences - 6, blocks)
    return need


def draft(wanted: Wanted, padding: int) -> str:
    """An answer with everything that is asked for, and `padding` sentences besides. It may still fail a check."""
    asked = dict(wanted)
    language = asked.get("language:response_language", {}).get("language", "en")
    filler = list(islice(cycle(FILLER.get(language, FILLER["en"])), padding))
    sentences = filler + [sentence for key, given in wanted for sentence in _required(key, given)]
    if given := asked.get("sentence:keyword"):
        sentences.insert(int(given["N"]) - 1, f"This is where the {given['word']} comes in.")
    if given := asked.get("first_word:first_word_answer"):
        sentences.insert(0, f"{given['first_word'].capitalize()} is a good place to begin.")
    text = _divided(asked, sentences)
    if given := asked.get("detectable_format:number_bullet_lists"):
        text += "\n" + "\n".join(["* one more point to note"] * int(given["num_bullets"]))
    return _cased(asked, _ended(asked, _opened(asked, text)))


def _required(key: str, given: Mapping[str, Any]) -> list[str]:
    """Sentences that a constraint asks for."""
    mention = "Think of the {} as well."
    match key:
        case "keywords:existence":
            return [mention.format(word) for word in given["keywords"]]
        case "keywords:frequency" if given["relation"] == "at least":
            return [mention.format(given["keyword"])] * int(given["frequency"])
        case "keywords:word_once":
            return [mention.format(given["keyword"])]
        case "count:count_increment_word":
            return [mention.format(word) for word in (given["keyword1"], given["keyword2"], given["keyword2"])]
        case "keywords:letter_frequency" if given["let_relation"] == "at least":
            return [f"The letter is {' '.join([given['letter']] * int(given['let_frequency']))} here."]
        case "detectable_content:number_placeholders":
            return ["Please write to [name] about it."] * int(given["num_placeholders"])
        case "detectable_format:number_highlighted_sections":
            return ["This is a *main idea* to keep."] * int(given["num_highlights"])
        case "change_case:capital_word_frequency" if given["capital_relation"] == "at least":
            return [f"Please {' '.join(['NOTE'] * int(given['capital_frequency']))} this."]
        case "letters:letter_counting":
            return (
                list(islice(cycle(FILLER["en"]), math.ceil(given["N"] / 32))) if given["relation"] == "at least" else []
            )
        case "count:unique_word_count":
            return list(FILLER["en"])
        case "count:numbers":
            return ["The number is 7 in this case."] * int(given["N"])
        case "count:conjunctions":
            return ["Wait for a while and look but never rush nor stop or turn back yet go on so far."]
        case "count:pronouns":
            return ["You and I know that we like it."] * math.ceil(given["N"] / 4)
        case "format:parentheses":
            return ["Look ([{([here])}]) for more."]
    return []


def _divided(asked: Mapping[str, Mapping[str, Any]], sentences: Sequence[str]) -> str:
    """The sentences in the paragraphs, sections or answers that are asked for."""
    if given := asked.get("length_constraints:number_paragraphs"):
        return "\n***\n".join(_groups(sentences, int(given["num_paragraphs"])))
    if given := asked.get("length_constraints:nth_paragraph_first_word"):
        groups = _groups(sentences, int(given["num_paragraphs"]))
        at = int(given["nth_paragraph"]) - 1
        groups[at] = f"{given['first_word'].capitalize()} comes to mind here. {groups[at]}"
        return "\n\n".join(groups)
    if given := asked.get("detectable_format:multiple_sections"):
        groups = _groups(sentences, int(given["num_sections"]))
        return "\n".join(f"{given['section_spliter']} {n}\n{group}" for n, group in enumerate(groups, 1))
    if "paragraphs:paragraphs2" in asked:
        return "\n\n".join(_groups(sentences, 2))
    if "combination:two_responses" in asked:
        return "\n******\n".join(_groups(sentences, 2))
    if "format:output_template" in asked:
        answer, conclusion, outlook = _groups(sentences, 3)
        return f"My Answer: {answer} My Conclusion: {conclusion} Future Outlook: {outlook}"
    return " ".join(sentences)


def _groups(sentences: Sequence[str], count: int) -> list[str]:
    """As many texts of neighbouring sentences, as even as can be."""
    bounds = [len(sentences) * number // count for number in range(count + 1)]
    return [" ".join(sentences[low:high]) for low, high in pairwise(bounds)]


def _opened(asked: Mapping[str, Mapping[str, Any]], text: str) -> str:
    if given := asked.get("combination:repeat_prompt"):
        return f"{given['prompt_to_repeat']}\n{text}"
    return f"<<A few words on this>>\n{text}" if "detectable_format:title" in asked else text


def _ended(asked: Mapping[str, Mapping[str, Any]], text: str) -> str:
    if given := asked.get("detectable_content:postscript"):
        text += f"\n{given['postscript_marker']} Thank you for your time."
    if given := asked.get("startend:end_checker"):
        text += f"\n{given['end_phrase']}"
    if given := asked.get("last_word:last_word_answer"):
        text += f"\nAnd so it all comes down to the {given['last_word']}."
    return text


def _cased(asked: Mapping[str, Mapping[str, Any]], text: str) -> str:
    """The whole text in the characters that are allowed, and in the wrapping that is asked for."""
    if "punctuation:punctuation_dot" in asked:
        text = text.replace(".", "")
    if "change_case:english_capital" in asked:
        text = text.upper()
    if "change_case:english_lowercase" in asked:
        text = text.lower()
    if "detectable_format:json_format" in asked:
        return json.dumps({"answer": text})
    return f'"{text}"' if "startend:quotation" in asked else text
