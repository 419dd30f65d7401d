"""Pairs are read in every form that people have them in, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cascade.config import EnvironmentConfig
from cascade.data.pairs import conversation_length
from cascade.environments.catalogue import build_environment
from cascade.environments.preference_pairs import PreferencePairs
from cascade.errors import ConfigError, DataError, FailureKind, VerifierFailure
from cascade.ports import GivesPairs
from cascade.types import Row

HH = Path(os.environ.get("CASCADE_DATA", "")) / "hh_rlhf" / "harmless_base_test.jsonl.gz"
USER = {"role": "user", "content": "17+25?"}
GOOD, BAD = {"role": "assistant", "content": "42"}, {"role": "assistant", "content": "41"}
WHOLE = {"chosen": [USER, GOOD], "rejected": [USER, BAD]}


def row_of(record: dict[str, Any]) -> tuple[PreferencePairs, Row]:
    environment = PreferencePairs()
    return environment, Row("pairs/1", "preference", "pairs", environment.read(record))


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        {"prompt": "17+25?", "chosen": "42", "rejected": "41"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "17+25?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},  # the prompt is part of both
        {"prompt": "17+25?", "chosen": "42", "rejected": "41", "messages": [USER, GOOD]},
        {"chosen": "\n\nHuman: 17+25?\n\nAssistant: 42", "rejected": "\n\nHuman: 17+25?\n\nAssistant:41 "},
        {"responses_create_params": {"input": [USER]}, "chosen": "42", "rejected": "41"},
    ],
)
def test_every_form_of_a_pair_is_the_same_pair(record: dict[str, Any]) -> None:
    environment, row = row_of(record)
    pair = environment.pair(row)
    assert (pair.chosen, pair.rejected) == ([USER, GOOD], [USER, BAD])
    assert environment.messages(row) == [USER]
    assert environment.demonstration(row) == {"prompt": [USER], "completion": [GOOD]}
    assert isinstance(environment, GivesPairs)
    assert environment.pairs_only


def test_text_without_a_prompt_is_text_and_has_no_prompt_to_show() -> None:
    environment, row = row_of({"chosen": "a good text", "rejected": "a bad text"})
    assert environment.pair(row).chosen == "a good text"
    assert environment.demonstration(row) == {"text": "a good text"}
    with pytest.raises(DataError, match="without a prompt"):
        environment.messages(row)


def test_sides_that_part_early_share_the_prompt_up_to_there() -> None:
    turns = [USER, GOOD, {"role": "user", "content": "sure?"}, GOOD]
    other = [USER, BAD, {"role": "user", "content": "sure?"}, GOOD]
    environment, row = row_of({"chosen": turns, "rejected": other})
    assert environment.messages(row) == [USER]


def test_turns_of_one_speaker_in_a_row_and_empty_answers_are_kept() -> None:
    text = "\n\nHuman: one\n\nHuman: two\n\nAssistant: "
    environment, row = row_of({"chosen": f"{text}yes", "rejected": text})
    assert [turn["content"] for turn in environment.pair(row).rejected] == ["one", "two", ""]  # type: ignore[index]
    assert conversation_length(environment.pair(row).chosen) == len("onetwoyes")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"chosen": "42"}, "`rejected` is 'None'"),
        ({"chosen": "", "rejected": "41"}, "`chosen` is ''"),
        ({"prompt": "x", "chosen": "42", "rejected": "42"}, "are the same"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "`chosen` does not end with an assistant turn"),
        ({"chosen": "\n\nHuman: x", "rejected": "\n\nHuman: x\n\nAssistant: y"}, "does not end with an assistant turn"),
        ({"chosen": [{"content": "x"}], "rejected": [USER, BAD]}, "no role"),
        ({"chosen": 3, "rejected": [USER, BAD]}, "`chosen` is '3'"),
    ],
)
def test_what_is_no_pair_is_refused_in_words(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        row_of(record)


def test_it_scores_no_answer_and_says_what_it_is_for() -> None:
    environment, row = row_of(WHOLE)
    for answer in ("42", "41", "\ud800", "x" * 5_000_000):
        with pytest.raises(VerifierFailure, match="kind reward_model") as caught:
            environment.score(row, answer)
        assert caught.value.kind is FailureKind.DATA
    with pytest.raises(DataError, match="none of which is scored"):
        environment.gold(row)


def test_long_pairs_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{i}", "chosen": "x" * i, "rejected": "y"} for i in range(2, 40)]
    file.write_text("\n".join(map(json.dumps, rows)))
    params = {"train": str(file), "validation_rows": 2, "test_rows": 2}
    kept = PreferencePairs(**params, max_characters=20)
    assert len(PreferencePairs(**params).rows("train")) == 34
    assert 0 < len(kept.rows("train")) < 34
    assert all(len(row.data["chosen"][-1]["content"]) <= 18 for row in kept.rows("train"))
    with pytest.raises(ConfigError, match="max_characters is 0"):
        PreferencePairs(max_characters=0)


def test_the_catalogue_builds_it_and_keeps_what_it_is() -> None:
    made = build_environment("pairs", EnvironmentConfig("preference_pairs", "preference"), 0)
    assert isinstance(made, PreferencePairs)
    with pytest.raises(ConfigError, match="pairs_only"):
        build_environment("pairs", EnvironmentConfig("preference_pairs", "preference", params={"pairs_only": False}), 0)


@pytest.mark.skipif(not HH.is_file(), reason="CASCADE_DATA has no hh_rlhf/harmless_base_test.jsonl.gz")
def test_real_transcripts_of_people_are_all_read_and_split_without_overlap() -> None:
    environment = PreferencePairs(train=str(HH), validation_rows=200, test_rows=500)
    splits = [environment.rows(split) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert [len(rows) for rows in splits] == [2312 - 700, 200, 500]
    assert len({row.id for rows in splits for row in rows}) == 2312
    pairs = [environment.pair(row) for rows in splits for row in rows]
    assert all(side[-1]["role"] == "assistant" for pair in pairs for side in (pair.chosen, pair.rejected))  # type: ignore[index]
