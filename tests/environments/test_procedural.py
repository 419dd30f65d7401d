"""The procedural environments: their own answers are right, nothing else is, and no split sees another."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cascade.environments.addition import Addition
from cascade.environments.json_answer import read_object, same_values
from cascade.environments.needle_digits import NeedleDigits
from cascade.environments.option_lookup import OptionLookup
from cascade.environments.procedural import ProceduralEnvironment, split_of
from cascade.environments.ranked_items import RankedItems
from cascade.environments.record_fields import RecordFields
from cascade.environments.tool_call import ToolCall
from cascade.environments.word_operations import WordOperations
from cascade.errors import ConfigError, DataError
from cascade.types import DOMAINS, Row

CLASSES = (Addition, WordOperations, OptionLookup, ToolCall, RecordFields, NeedleDigits, RankedItems)
SPLITS = ("train", "validation", "test")
GARBAGE = {
    "empty": "",
    "space": " ",
    "nul": "\x00",
    "lone surrogate": "\ud800",
    "not a number": "NaN",
    "infinite value": '{"move":{"x":Infinity,"y":1}}',
    "null": "null",
    "number": "1e999",
    "huge integer": "9" * 5000,
    "huge integer in an object": '{"age":' + "9" * 4000 + "}",
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "deep but short": '{"a":' * 800,
    "one megabyte": "x" * 1_000_000,
    "one megabyte of JSON": json.dumps({"a": "x" * 1_000_000}),
    "broken escape": '{"name":"\\u12"}',
}


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.domain)
def environment(request: pytest.FixtureRequest) -> ProceduralEnvironment:
    return request.param(seed=3, train_rows=1500, validation_rows=300, test_rows=300)


def all_rows(environment: ProceduralEnvironment) -> list[Row]:
    return [row for split in SPLITS for row in environment.rows(split)]


def test_gold_scores_one_on_every_row(environment: ProceduralEnvironment) -> None:
    assert {environment.score(row, environment.gold(row)).reward for row in all_rows(environment)} == {1.0}


def test_every_other_gold_scores_zero(environment: ProceduralEnvironment) -> None:
    rows = environment.rows("test")
    if isinstance(environment, RecordFields):  # the same fields in another order are the same answer
        wrong = [(row, other) for row in rows[:50] for other in rows if set_of(row) != set_of(other)]
    else:
        wrong = [
            (row, other) for row in rows[:50] for other in rows if environment.gold(row) != environment.gold(other)
        ]
    assert wrong
    assert {environment.score(row, environment.gold(other)).reward for row, other in wrong} == {0.0}


def set_of(row: Row) -> set[tuple[str, object]]:
    return set(json.loads(row.data["answer"]).items())


def test_a_changed_cut_or_wrapped_gold_scores_zero(environment: ProceduralEnvironment) -> None:
    if isinstance(environment, OptionLookup):
        pytest.skip("what stands around the box does not count")
    for row in environment.rows("test"):
        gold = environment.gold(row)
        for answer in (gold[:-1], gold + "~", "~" + gold, gold + gold):
            assert environment.score(row, answer).reward == 0.0


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_scores_zero_and_raises_nothing(environment: ProceduralEnvironment, answer: str) -> None:
    score = environment.score(environment.rows("test")[0], answer)
    assert score.reward == 0.0
    assert score.parts["correct"] == 0.0


def test_splits_share_no_row_and_no_task(environment: ProceduralEnvironment) -> None:
    rows = all_rows(environment)
    assert len({row.id for row in rows}) == len(rows) == 2100


def test_splits_of_different_seeds_share_no_row(environment: ProceduralEnvironment) -> None:
    other = dataclasses.replace(environment, seed=4)
    test = {row.id for row in environment.rows("test")}
    assert not test & {row.id for row in (*other.rows("train"), *other.rows("validation"))}


def test_rows_follow_from_the_seed_alone(environment: ProceduralEnvironment) -> None:
    again = dataclasses.replace(environment)
    other = dataclasses.replace(environment, seed=4)
    for split in SPLITS:
        assert environment.rows(split) == again.rows(split)
        assert environment.rows(split) != other.rows(split)


def test_rows_are_short_printable_and_named_after_their_content(environment: ProceduralEnvironment) -> None:
    assert environment.domain in DOMAINS
    for row in all_rows(environment):
        (message,) = environment.messages(row)
        assert message["role"] == "user"
        question, answer = message["content"], environment.gold(row)
        assert row.id == f"{environment.name}/{question}"
        assert (row.domain, row.environment) == (environment.domain, environment.name)
        assert all(32 <= ord(character) <= 126 for character in question + answer)
        assert len(question) <= 90
        assert len(answer) <= 26


def test_a_space_too_small_is_an_error() -> None:
    with pytest.raises(DataError, match=r"only \d+ of 500 distinct test rows"):
        Addition(max_terms=3, test_rows=500).rows("test")


def test_a_split_is_a_property_of_the_task() -> None:
    tenths = [split_of(str(number)) for number in range(10_000)]
    assert split_of("17+25") == split_of("17+25")
    assert [round(tenths.count(split) / 1000) for split in SPLITS] == [8, 1, 1]


def test_all_orders_of_a_sum_are_in_one_split() -> None:
    sums = Addition(min_terms=3, max_terms=4, train_rows=4000, test_rows=500)
    terms = {
        split: {tuple(sorted(row.data["question"][:-1].split("+"))) for row in sums.rows(split)} for split in SPLITS
    }
    assert not terms["train"] & terms["test"]
    assert not terms["train"] & terms["validation"]


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (Addition, {"digits": 0}),
        (Addition, {"min_terms": 3, "max_terms": 2}),
        (OptionLookup, {"max_decoys": 4}),
        (WordOperations, {"min_operations": 3, "max_operations": 2}),
        (WordOperations, {"max_operations": 99}),
        (OptionLookup, {"option_length": 0}),
        (ToolCall, {"max_value": 0}),
        (NeedleDigits, {"min_length": 2}),
        (RankedItems, {"items": 1}),
    ],
)
def test_meaningless_parameters_are_refused(cls: type[ProceduralEnvironment], parameters: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        cls(**parameters)


def test_instructions_are_carried_out_in_order() -> None:
    answers = {row.data["question"]: row.data["answer"] for row in WordOperations(train_rows=4000).rows("train")}
    for question, answer in answers.items():
        operations, words = question.split(": ")
        if operations == "upper,reverse":
            assert answer == " ".join(reversed(words.upper().split()))
        if operations == "bang,drop":
            assert answer == " ".join(words.split()[1:]) + "!"


@pytest.mark.parametrize("answer", ['{"y":7,"x":36}', '{ "x": 36, "y": 7 }'])
def test_key_order_and_spaces_in_json_do_not_matter(answer: str) -> None:
    row = Row("tool_call/q", "tool_use", "tool_call", {"question": "q", "answer": '{"move":{"x":36,"y":7}}'})
    assert ToolCall().score(row, f'{{"move":{answer}}}').reward == 1.0


@pytest.mark.parametrize(
    "arguments", ['{"x":"36","y":7}', '{"x":36.0,"y":7}', '{"x":36}', '{"x":36,"y":7,"z":1}', '{"x":36,"y":7,"y":7}']
)
def test_wrong_arguments_of_the_right_tool_earn_no_reward(arguments: str) -> None:
    row = Row("tool_call/q", "tool_use", "tool_call", {"question": "q", "answer": '{"move":{"x":36,"y":7}}'})
    score = ToolCall().score(row, f'{{"move":{arguments}}}')
    assert score.reward == score.parts["correct"] == 0.0


@pytest.mark.parametrize(
    "answer", ['{"age":34,"ok":1}', '{"age":"34","ok":true}', '{"age":34}', '{"age":34,"ok":null}']
)
def test_wrong_types_and_missing_keys_of_a_record_score_zero(answer: str) -> None:
    row = Row(
        "record_fields/q", "structured_output", "record_fields", {"question": "q", "answer": '{"age":34,"ok":true}'}
    )
    assert RecordFields().score(row, answer).reward == 0.0
    assert RecordFields().score(row, '{"ok":true,"age":34}').reward == 1.0


@pytest.mark.parametrize(
    "answer", ["C", "\\boxed{A}", "\\boxed{C}\\boxed{A}", "\\boxed{A C}", "\\boxed{ABCD}", "\\boxed{}", "\\boxed{C"]
)
def test_only_the_right_letter_alone_in_the_last_box_earns_the_reward(answer: str) -> None:
    row = Row("option_lookup/q", "multiple_choice", "option_lookup", {"question": "q", "answer": "\\boxed{C}"})
    assert OptionLookup().score(row, answer).reward == 0.0
    assert OptionLookup().score(row, "so it is \\boxed{C}").reward == 1.0


def test_read_object_accepts_only_plain_objects() -> None:
    assert read_object('{"a":1}') == {"a": 1}
    for answer in ("[]", "1", '"a"', '{"a":1}{', 'json {"a":1}', '{"a":1,"a":1}', '{"a":NaN}'):
        assert read_object(answer) is None


def test_same_values_tells_json_types_apart() -> None:
    assert same_values({"a": 1, "b": {"c": True}}, {"b": {"c": True}, "a": 1})
    for found in (True, 1.0, "1", None):
        assert not same_values({"a": found}, {"a": 1})
