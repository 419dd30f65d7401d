"""Instruction following: the forms of rows, grading, the bounds on hostile answers, and what hacking it earns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cascade.config import EnvironmentConfig
from cascade.environments.catalogue import build_environment
from cascade.environments.instruction_following import LONGEST, InstructionFollowing
from cascade.errors import ConfigError, DataError, VerifierFailure
from cascade.ports import Bounded, ReadsRecords
from cascade.reasoning import split_reasoning
from cascade.types import Row

DATA = Path(os.environ.get("CASCADE_DATA", Path(__file__).parents[3] / "shared" / "data"))
IFEVAL = DATA / "ifeval" / "input_data.jsonl"
ENVIRONMENT = InstructionFollowing()
NO_COMMA = ("punctuation:no_comma", {})
SHORT = ("length_constraints:number_words", {"num_words": 5, "relation": "less than"})


def row(*constraints: tuple[str, dict[str, Any]], **more: Any) -> Row:
    record = {"instruction_id_list": [key for key, _ in constraints], "kwargs": [given for _, given in constraints]}
    return Row("x", "instruction_following", "x", ENVIRONMENT.read({**record, **more}))


def reward(answer: str, *constraints: tuple[str, dict[str, Any]]) -> float:
    return ENVIRONMENT.score(row(*constraints), answer).reward


def test_it_is_bounded_reads_records_and_is_in_the_catalogue() -> None:
    assert isinstance(ENVIRONMENT, Bounded)
    assert isinstance(ENVIRONMENT, ReadsRecords)
    config = EnvironmentConfig(
        kind="instruction_following", domain="instruction_following", params={"grading": "fraction"}
    )
    built = build_environment("mine", config, 0)
    assert isinstance(built, InstructionFollowing)
    assert built.grading == "fraction"


FORMS: list[dict[str, Any]] = [
    {"instruction_id_list": ["punctuation:no_comma", SHORT[0]], "kwargs": [{}, SHORT[1]], "prompt": "Hi"},
    {"instruction_id_list": ["punctuation:no_comma", SHORT[0]], "kwargs": [None, {**SHORT[1], "keywords": None}]},
    {"instruction_id_list": ["punctuation:no_comma", SHORT[0]], "kwargs": ["{}", json.dumps(SHORT[1])]},
    {"instruction_id_list": json.dumps(["punctuation:no_comma", SHORT[0]]), "kwargs": json.dumps([{}, SHORT[1]])},
    {"ground_truth": str([{"instruction_id": ["punctuation:no_comma", SHORT[0]], "kwargs": [None, SHORT[1]]}])},
    {
        "id": 8654,
        "instruction_id_list": ["punctuation:no_comma", SHORT[0]],
        "kwargs": [{}, {"num_words": 5.0, "relation": "less than"}],
        "responses_create_params": {"input": [{"role": "user", "content": "Hi"}], "tools": []},
    },
]


@pytest.mark.parametrize("record", FORMS)
def test_rows_are_read_in_every_form_people_have(record: dict[str, Any]) -> None:
    read = ENVIRONMENT.read(record)
    assert read["instruction_id_list"] == ["punctuation:no_comma", "length_constraints:number_words"]
    assert read["kwargs"] == [{}, {"num_words": 5, "relation": "less than"}]
    assert json.loads(json.dumps(read)) == read
    scored = ENVIRONMENT.score(Row("x", "d", "x", read), "no comma here")
    assert scored.reward == 1.0


@pytest.mark.parametrize(
    "record, said",
    [
        ({"prompt": "Hi"}, "instruction_id_list"),
        ({"instruction_id_list": []}, "instruction_id_list"),
        ({"instruction_id_list": ["punctuation:no_coma"]}, "punctuation:no_comma"),
        ({"instruction_id_list": [SHORT[0]], "kwargs": [{}]}, "lacks num_words, relation"),
        ({"instruction_id_list": [SHORT[0]], "kwargs": []}, "`kwargs`"),
        ({"instruction_id_list": [SHORT[0]], "kwargs": "{"}, "JSON"),
        ({"instruction_id_list": [SHORT[0]], "kwargs": [3]}, "no object"),
        ({"instruction_id_list": ["punctuation:no_comma"], "grading_mode": "mean"}, "grading_mode"),
        ({"ground_truth": "[" * 100_000}, "JSON"),
    ],
)
def test_a_malformed_row_is_an_error_that_says_what_is_wrong(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as raised:
        ENVIRONMENT.read(record)
    assert said in str(raised.value)


def test_a_row_that_cannot_be_checked_is_the_datas_fault_not_the_models() -> None:
    broken = Row("x", "d", "x", {"instruction_id_list": ["no:such"], "kwargs": [{}]})
    with pytest.raises(VerifierFailure, match="data"):
        ENVIRONMENT.score(broken, "anything")


def test_binary_wants_all_and_fraction_counts() -> None:
    half = row(NO_COMMA, SHORT)
    answer = "this one, though, is much too long"
    long = "this one is much too long"
    assert ENVIRONMENT.score(half, answer).reward == 0.0
    assert ENVIRONMENT.score(half, long).reward == 0.0
    assert InstructionFollowing(grading="fraction").score(half, long).reward == 0.5
    assert ENVIRONMENT.score(row(NO_COMMA, SHORT, grading_mode="fraction"), long).reward == 0.5
    assert (
        InstructionFollowing(grading="fraction").score(row(NO_COMMA, SHORT, grading_mode="binary"), long).reward == 0.0
    )


def test_parts_name_every_instruction_and_both_shares() -> None:
    parts = ENVIRONMENT.score(row(NO_COMMA, SHORT, SHORT), "this one is much too long").parts
    assert parts == {
        "strict": 1 / 3,
        "loose": 1 / 3,
        "punctuation:no_comma": 1.0,
        "length_constraints:number_words": 0.0,
        "length_constraints:number_words#2": 0.0,
    }


def test_loose_accepts_an_answer_without_its_first_line() -> None:
    known = row(("startend:quotation", {}))
    answer = 'Here it is:\n"A quoted answer."'
    assert ENVIRONMENT.score(known, answer).reward == 0.0
    assert ENVIRONMENT.score(known, answer).parts["loose"] == 1.0
    assert InstructionFollowing(strictness="loose").score(known, answer).reward == 1.0


def test_nonsense_parameters_are_refused() -> None:
    for params in (
        {"min_constraints": 0},
        {"min_constraints": 4, "max_constraints": 3},
        {"constraint_ids": ("punctuation:no_coma",)},
        {"constraint_ids": ("punctuation:no_comma",), "max_constraints": 2},
    ):
        with pytest.raises(ConfigError):
            InstructionFollowing(**params)


@pytest.mark.skipif(not IFEVAL.exists(), reason="needs IFEval's prompts in CASCADE_DATA")
def test_every_ifeval_row_is_read_and_what_gold_answers_there_are_score_one() -> None:
    environment = InstructionFollowing(test=str(IFEVAL), test_rows=541)
    found = environment.rows("test")
    assert len(found) == 541
    golds = 0
    for each in found[::5]:
        try:
            gold = environment.gold(each)
        except DataError:
            continue
        golds += 1
        assert environment.score(each, gold).reward == 1.0
    assert golds > 80


# Hostile answers


@pytest.mark.parametrize(
    "answer",
    ["a" * 5_000_000, "<<" * 2_500_000, "\n" * 5_000_000, "[" * 5_000_000, "\ud800\x00" * 2_500_000, "* " * 2_500_000],
)
def test_five_megabytes_score_nothing_in_no_time(answer: str) -> None:
    started = time.monotonic()
    scored = ENVIRONMENT.score(row(NO_COMMA, ("detectable_format:title", {})), answer)
    assert scored.reward == 0.0
    assert scored.parts["too_long"] == 1.0
    assert time.monotonic() - started < 1


def test_the_longest_answer_that_is_read_is_far_beyond_a_real_one() -> None:
    assert reward("word " * (LONGEST // 5), NO_COMMA) == 1.0
    assert reward("word " * (LONGEST // 5) + "and more", NO_COMMA) == 0.0


@pytest.mark.parametrize("answer", ["", " \n\t", "\u2003\u00a0"])
def test_an_empty_answer_follows_nothing(answer: str) -> None:
    for constraint in (NO_COMMA, SHORT, ("keywords:forbidden_words", {"forbidden_words": ["fish"]})):
        scored = ENVIRONMENT.score(row(constraint), answer)
        assert scored.reward == 0.0
        assert scored.parts["empty"] == 1.0


def test_odd_characters_are_an_answer_like_any_other() -> None:
    everything = [
        ("detectable_format:json_format", {}),
        ("language:response_language", {"language": "fr"}),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
        ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}),
    ]
    for answer in (
        "\x00",
        "\ud800\udfff",
        "\u202e\u200f",
        "👩‍👩‍👧‍👦" * 50,
        "a\u0301" * 500,
        "[" * 100_000,
        "9" * 100_000,
    ):
        assert reward(answer, *everything) == 0.0


# Hacking it: what pleases a checker without following, and what is inherent in checking form


def test_repeating_the_instruction_does_not_follow_it() -> None:
    constraints: list[tuple[str, dict[str, Any]]] = [
        ("detectable_format:title", {}),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
        ("startend:quotation", {}),
        ("change_case:english_capital", {}),
        ("language:response_language", {"language": "de"}),
        ("combination:two_responses", {}),
        ("detectable_format:json_format", {}),
        ("length_constraints:number_words", {"num_words": 100, "relation": "at least"}),
    ]
    for constraint in constraints:
        assert reward(f"I will follow the instruction {constraint[0]} in my answer. Here it is.", constraint) == 0.0


@pytest.mark.parametrize("answer", ["Here is the answer:", "Sure!", "Of course. Here is the answer you asked for:"])
def test_an_announcement_alone_earns_nothing_where_there_is_something_to_do(answer: str) -> None:
    assert reward(answer, ("keywords:existence", {"keywords": ["lamp"]})) == 0.0
    assert (
        reward(answer, NO_COMMA, ("length_constraints:number_words", {"num_words": 30, "relation": "at least"})) == 0.0
    )
    assert reward(answer, ("detectable_content:number_placeholders", {"num_placeholders": 1})) == 0.0


def test_what_is_hidden_in_the_reasoning_does_not_count() -> None:
    hidden = split_reasoning("<think>lamp lamp lamp <<a title>></think>Nothing of that kind.").answer
    assert reward(hidden, ("keywords:existence", {"keywords": ["lamp"]})) == 0.0
    assert reward(hidden, ("detectable_format:title", {})) == 0.0
    unended = split_reasoning("<think>lamp lamp lamp").answer
    assert reward(unended, ("punctuation:no_comma", {})) == 0.0


def test_a_json_dump_of_the_constraints_is_only_json() -> None:
    dump = json.dumps({"title": "<none>", "keywords": "see below", "bullets": ["a", "b", "c"]})
    assert reward(dump, ("detectable_format:json_format", {})) == 1.0
    assert reward(dump, ("detectable_format:number_bullet_lists", {"num_bullets": 3})) == 0.0
    assert reward(dump, ("detectable_format:title", {})) == 0.0


def test_zero_width_characters_hide_no_forbidden_word_as_a_word_and_make_no_keyword() -> None:
    assert reward("the l\u200bamp", ("keywords:existence", {"keywords": ["lamp"]})) == 0.0
    assert reward("\u200b" * 500, ("length_constraints:number_words", {"num_words": 5, "relation": "at least"})) == 0.0
    assert (
        reward("\u200b" * 500, ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}))
        == 0.0
    )


def test_look_alike_letters_are_other_letters() -> None:
    assert reward("the l\u0430mp", ("keywords:existence", {"keywords": ["lamp"]})) == 0.0


def test_form_is_all_that_is_judged() -> None:
    """Inherent: the references judge no content, so a list of keywords passes, and so does any text in bounds."""
    assert reward("lamp lantern", ("keywords:existence", {"keywords": ["lamp", "lantern"]})) == 1.0
    assert reward("x", NO_COMMA) == 1.0
    assert reward("123", ("language:response_language", {"language": "hi"})) == 1.0  # no letters, nothing to detect
    assert reward("f\u200bish", ("keywords:forbidden_words", {"forbidden_words": ["fish"]})) == 1.0


def test_importing_it_is_light_and_touches_no_network() -> None:
    code = (
        "import sys, cascade.environments.instruction_following as m\n"
        "assert not {'nltk', 'if_verifiable', 'langdetect', 'torch', 'datasets'} & set(sys.modules)\n"
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from cascade.types import Row\n"
        "row = Row('x', 'd', 'x', {'instruction_id_list': ['ratio:stop_words', 'first_word:first_word_sent'],"
        " 'kwargs': [{'percentage': 90}, {'first_word': 'two'}]})\n"
        "assert m.InstructionFollowing().score(row, 'two words').reward == 1.0\n"
        "assert 'datasets' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
