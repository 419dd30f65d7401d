"""Needles and key-value recall: haystacks of any length, exact scores, rows of RULER, and answers that only copy."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cascade.config import EnvironmentConfig
from cascade.environments.catalogue import build_environment
from cascade.environments.haystacks import FILLER
from cascade.environments.recall import Recall
from cascade.errors import ConfigError, DataError
from cascade.ports import ReadsRecords
from cascade.types import Row

FORMS = [
    {"task": "needle"},
    {"task": "needle", "queries": 3, "keys": 6},
    {"task": "needle", "values": 4, "keys": 2},
    {"task": "key_value"},
    {"task": "key_value", "queries": 3},
    {"task": "key_value", "queries": 2, "values": 2},
]


def recall(**changes: Any) -> Recall:
    return Recall(**{"train_rows": 40, "validation_rows": 10, "test_rows": 10, "target_tokens": 1500, **changes})


def prompt(environment: Recall, row: Row) -> str:
    [message] = environment.messages(row)
    return message.get("content", "")


def ruler(**fields: Any) -> Row:
    record = {"outputs": ["4711042"], "length": 4096, "subset": "niah_single_2", **fields}
    [row] = Recall().rows_of([("1", record)], "test")
    return row


# Haystacks


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("target", [1500, 30_000])
def test_haystacks_have_the_length_that_is_asked_for_and_hold_what_is_asked(form: dict[str, Any], target: int) -> None:
    environment = recall(**form, target_tokens=target)
    for row in environment.rows("test"):
        text = prompt(environment, row)
        assert target * 0.95 < len(text) / 4 <= target
        assert all(text.count(value) == 1 for value in row.data["outputs"])
        assert all(key in text.rsplit("\n\n", 1)[1] for key in row.data["asked"])
        assert prompt(environment, row) == text


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gold_scores_one_and_splits_share_nothing(form: dict[str, Any]) -> None:
    environment = recall(**form)
    seen: set[str] = set()
    for split, count in (("train", 40), ("validation", 10), ("test", 10)):
        rows = environment.rows(split)  # type: ignore[arg-type]
        assert len(rows) == count
        assert all(environment.score(row, environment.gold(row)).reward == 1.0 for row in rows)
        values = {value for row in rows for value in row.data["outputs"]}
        assert not values & seen
        seen |= values


def test_rows_are_small_however_long_their_haystack() -> None:
    environment = recall(target_tokens=1_000_000)
    assert all(len(json.dumps(dict(row.data))) < 500 for row in environment.rows("train"))
    assert len(prompt(environment, environment.rows("train")[0])) > 3_900_000


def test_the_store_is_json_and_the_needle_moves() -> None:
    environment = recall(task="key_value", values=2)
    row = environment.rows("test")[0]
    store = json.loads(prompt(environment, row).split("\n\n")[1])
    assert store[row.data["asked"][0]] == row.data["outputs"]
    assert len(store) > 30
    needles = recall()
    places = [prompt(needles, row).index(row.data["outputs"][0]) for row in needles.rows("train")]
    assert min(places) < 1500 < 4500 < max(places)


def test_seeds_draw_other_haystacks_and_the_same_seed_the_same() -> None:
    assert recall(seed=1).rows("test") == recall(seed=1).rows("test")
    first, second = (recall(seed=seed).rows("test")[0].data["outputs"] for seed in (1, 2))
    assert first != second


def test_real_text_surrounds_the_needles(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "One bird sang. Two birds flew. The magic number of x is 3."}) + "\n")
    environment = recall(filler=str(path))
    text = prompt(environment, environment.rows("test")[0])
    assert "Two birds flew." in text
    assert FILLER[0] not in text
    assert "magic number of x" not in text


@pytest.mark.parametrize(
    "params", [{"target_tokens": 10}, {"queries": 0}, {"keys": 1, "queries": 2}, {"values": 0}, {"keys": 100_000}]
)
def test_haystacks_that_cannot_be_are_config_errors(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        recall(**params)


def test_a_recipe_builds_it() -> None:
    config = EnvironmentConfig(
        kind="cascade.environments.recall.Recall", domain="long_context", params={"task": "key_value", "train_rows": 5}
    )
    built = build_environment("store", config, seed=3)
    assert len(built.rows("train")) == 5
    assert isinstance(built, ReadsRecords)


# Scores


def test_values_may_come_in_any_order_and_in_sentences() -> None:
    environment = recall(queries=2, values=2, keys=3)
    row = environment.rows("test")[0]
    values = row.data["outputs"]
    first, second = row.data["asked"]
    for text in (
        "\n".join(reversed(values)),
        f"The numbers of {first} are {values[0]} and {values[1]}; those of {second} are {values[2]}, {values[3]}.",
        ", ".join(f"{int(value):,}" for value in values),
    ):
        assert environment.score(row, text).reward == 1.0, text
    for text in (" ".join(values[:3]), " ".join([*values, "1234567"]), "".join(values), "-".join(values) + "9"):
        assert environment.score(row, text).reward == 0.0, text
    assert environment.score(row, values[0]).parts["found"] == 0.25


def test_a_key_may_be_repeated_with_its_value_but_no_other_key() -> None:
    environment = recall(task="key_value")
    row = environment.rows("test")[0]
    [key], [value] = row.data["asked"], row.data["outputs"]
    other = re.findall(r'"([0-9a-f-]{36})"', prompt(environment, row))[5]
    assert environment.score(row, f'"{key}": "{value.upper()}"').reward == 1.0
    assert environment.score(row, f"{value} {other}").reward == 0.0
    assert environment.score(row, key).reward == 0.0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_copying_the_haystack_never_scores(form: dict[str, Any]) -> None:
    environment = recall(**form, target_tokens=600)
    for row in environment.rows("test"):
        text = prompt(environment, row)
        at = text.index(row.data["outputs"][0])
        assert environment.score(row, text).reward == 0.0
        assert environment.score(row, text[max(0, at - 400) : at + 400]).reward == 0.0
        everything = " ".join(dict.fromkeys(re.findall(r"[0-9]{7}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)))
        if len(row.data["outputs"]) < 4:
            assert environment.score(row, everything).reward == 0.0


def test_hostile_answers_never_score_and_take_no_time() -> None:
    environment = recall()
    row, other = environment.rows("test")[0], ruler()
    rng = random.Random(0)
    pieces = ["4", "7", ",", "-", "\ud800", "\x00", "٤", "４", "⁴", "1234567", "{", "\\boxed{", " ", "\n", "½"]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(60))) for _ in range(500)]
    texts += ["1" * 5_000_000, "1,111" * 1_000_000, "[" * 100_000, ",111" * 1_000_000, ""]
    started = time.monotonic()
    for text in texts:
        assert environment.score(row, text).reward == 0.0
        assert environment.score(other, text).reward == 0.0
    assert time.monotonic() - started < 2.0
    assert (
        environment.score(row, "".join(chr(ord(digit) - 48 + 0xFF10) for digit in row.data["outputs"][0])).reward == 0.0
    )


# Rows of RULER


@pytest.mark.parametrize(
    ("outputs", "subset", "answer", "reward"),
    [(["4711042"], "niah_single_2", "It is 4711042.", 1.0), (["4711042"], "niah_single_2", "4711043", 0.0),
     (["NRBQA", "KMLJX"], "vt", "VAR nrbqa only", 0.5), (["a b", "c"], "cwe", "A B, C", 1.0),
     (["Rollo", "Rollo the Viking"], "qa_1", "rollo", 1.0), (["Paris"], "qa_2", "Rome", 0.0),
     (["Paris", "Rome"], "qa_2", "Rome", 1.0)],
)  # fmt: skip
def test_rows_of_ruler_are_scored_as_ruler_does(outputs: list[str], subset: str, answer: str, reward: float) -> None:
    assert Recall().score(ruler(outputs=outputs, subset=subset), answer).reward == reward


def test_scores_of_rows_of_ruler_are_those_of_its_code() -> None:
    reference = pytest.importorskip(
        "long_context_eval.eval.synthetic.constants", reason="needs nvidia-long-context-eval==26.3"
    )
    rng = random.Random(0)
    for number in range(2000):
        words = rng.sample(["NRBQA", "kmljx", "4711042", "1234567", "the sun", "apple", "é"], 4)
        subset, outputs = rng.choice(["vt", "cwe", "qa_1", "niah_multivalue"]), words[: rng.randrange(1, 4)]
        answer = f"{number}: " + ", ".join(rng.sample([*words, "other", "VAR"], rng.randrange(5)))
        metric = reference.string_match_part if subset == "qa_1" else reference.string_match_all
        expected = metric([answer], [outputs]) / 100
        assert Recall().score(ruler(outputs=outputs, subset=subset), answer).reward == pytest.approx(expected, abs=1e-4)


def test_copying_the_haystack_does_not_score_where_ruler_would_let_it() -> None:
    haystack = " ".join(f"One of the special magic numbers for k{n} is: {1_000_000 + 37 * n}." for n in range(60))
    row = ruler(outputs=["1000370"], prompt=f"{haystack}\nWhat is it for k10?", length=900)
    environment = Recall()
    assert environment.score(row, "1000370").reward == 1.0
    assert environment.score(row, haystack).parts["too_long"] == 1.0
    assert environment.score(row, haystack).reward == 0.0
    listed = environment.score(row, " ".join(str(1_000_000 + 37 * n) for n in range(30)))
    assert (listed.reward, listed.parts["found"]) == (0.0, 1.0)
    assert environment.score(ruler(length=262_144), "x" * 9000 + "4711042").reward == 0.0


def test_rows_of_nemo_gym_are_read_with_their_prompt(tmp_path: Path) -> None:
    record = {
        "responses_create_params": {"input": [{"role": "user", "content": "Find it."}]},
        "outputs": ["NRBQA"],
        "length": 262065,
        "subset": "vt",
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record) + "\n")
    environment = Recall(test=str(path))
    [row] = environment.rows("test")
    assert prompt(environment, row) == "Find it."
    assert environment.score(row, environment.gold(row)).reward == 1.0
    [plain] = environment.rows_of([("1", {"question": "Find it.", "outputs": ["x"], "length": 3})], "test")
    assert prompt(environment, plain) == "Find it."


@pytest.mark.parametrize(
    "record",
    [{}, {"outputs": []}, {"outputs": "x"}, {"outputs": [""]}, {"outputs": [3]}, {"outputs": ["x"], "length": -1},
     {"outputs": ["x"], "length": "long"}, {"outputs": ["x"], "length": float("nan")},
     {"outputs": ["x"], "length": True}],
)  # fmt: skip
def test_malformed_rows_are_data_errors(record: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Recall().read(record)
