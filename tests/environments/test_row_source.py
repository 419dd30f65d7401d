"""Rows that people bring: splits that share no row, malformed rows listed, and refused above a threshold."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from cascade.environments.row_source import RowEnvironment
from cascade.errors import ConfigError, DataError
from cascade.types import Row, Score


@dataclass(frozen=True, kw_only=True)
class Echo(RowEnvironment):
    """Right is the row's own answer."""

    name: str = "echo"
    domain: str = "math"

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(record.get("answer"), str):
            raise DataError("No `answer`.", "Give one.")
        return {"answer": record["answer"]}

    def gold(self, row: Row) -> str:
        return row.data["answer"]

    def score(self, row: Row, answer: str) -> Score:
        return Score(float(answer == row.data["answer"]))


RECORDS = [{"prompt": f"say {number}", "answer": str(number)} for number in range(100)]


def lines(path: Path, records: Sequence[Any]) -> str:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return str(path)


def ids(rows: Sequence[Row]) -> set[str]:
    return {row.id for row in rows}


def test_splits_are_cut_from_train_by_content_and_share_no_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", RECORDS + RECORDS[:10])
    first, second = (Echo(train=path, validation_rows=20, test_rows=10, seed=seed) for seed in (0, 1))
    train, validation, test = (first.rows(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (70, 20, 10)
    assert len(ids(train) | ids(validation) | ids(test)) == 100
    assert first.rows("test") == second.rows("test")
    assert first.messages(train[0]) == [{"role": "user", "content": f"say {train[0].data['answer']}"}]
    assert all(first.score(row, first.gold(row)).reward == 1 for row in train)


def test_named_sources_are_used_and_their_rows_leave_the_training_rows(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", RECORDS)
    test = tmp_path / "test.jsonl.gz"
    test.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS[:7])).encode()))
    validation = tmp_path / "validation.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS[5:12]), validation)
    environment = Echo(train=train, validation=str(validation), test=str(test))
    assert len(environment.rows("test")) == 7
    assert len(environment.rows("validation")) == 5  # two of the seven are test rows
    assert len(environment.rows("train")) == 88


def test_fewer_training_rows_are_a_seeded_choice(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", RECORDS)
    chosen = [
        ids(Echo(train=path, train_rows=9, test_rows=5, validation_rows=5, seed=s).rows("train")) for s in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 9


def test_malformed_rows_are_listed_with_their_lines_and_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [*RECORDS[:8], "{", {"answer": 4}, "", "[]"])
    with pytest.raises(DataError) as refused:
        Echo(train=path).rows("train")
    said = str(refused.value)
    assert "3 of 11 rows" in said
    for line in ("9: Not a JSON object.", "10: No `answer`.", "12: Not a JSON object."):
        assert line in said


def test_up_to_a_threshold_malformed_rows_are_listed_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "rows.jsonl", [*RECORDS[:9], {"answer": 4}])
    environment = Echo(train=path, max_malformed=0.1, validation_rows=1, test_rows=1)
    assert len(environment.rows("train")) == 7
    said = capsys.readouterr().err
    assert said.count("1 of 10 rows") == 1
    assert "10: No `answer`." in said


def test_rows_of_nemo_gym_are_read(tmp_path: Path) -> None:
    record = {"responses_create_params": {"input": "say 4", "tools": []}, "answer": "4", "thinking": True, "uuid": "x"}
    environment = Echo(test=lines(tmp_path / "rows.jsonl", [record]))
    (row,) = environment.rows("test")
    assert environment.messages(row) == [{"role": "user", "content": "say 4"}]
    assert environment.thinking(row) is True
    assert environment.tools(row) is None


def test_of_a_file_that_several_environments_share_only_the_rows_that_are_meant_count(tmp_path: Path) -> None:
    mine = [{**record, "agent_ref": {"name": "echo"}} for record in RECORDS[:6]]
    others = [{"agent_ref": {"name": "other"}, "schema": "no `answer` here"}, {"agent_ref": "echo"}]
    path = lines(tmp_path / "rows.jsonl", [*others, *mine])
    assert len(Echo(test=path, where={"agent_ref.name": "echo"}).rows("test")) == 6
    with pytest.raises(DataError, match="2 of 8 rows"):
        Echo(test=path).rows("test")


def test_wrong_numbers_and_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation_rows is 0"):
        Echo(validation_rows=0)
    with pytest.raises(ConfigError, match="max_malformed is 1"):
        Echo(max_malformed=1.0)
    with pytest.raises(DataError, match="no file"):
        Echo(train=str(tmp_path / "none.jsonl")).rows("train")
    with pytest.raises(DataError, match="no row left"):
        Echo(train=lines(tmp_path / "rows.jsonl", RECORDS[:5])).rows("train")
