"""Gold answers are scored as the model's are; each must earn 1, and rows without one are told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cascade.cli import main
from cascade.environments.row_source import RowEnvironment
from cascade.errors import DataError
from cascade.types import Row, Score


@dataclass(frozen=True, kw_only=True)
class Golden(RowEnvironment):
    """The answer of a row is right, where it has one and it is not spoilt."""

    name: str = "golden"
    domain: str = "math"

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"prompt": record["prompt"], "answer": record.get("answer"), "spoilt": record.get("spoilt", False)}

    def gold(self, row: Row) -> str:
        if row.data["answer"] is None:
            raise DataError("No gold.", "")
        return row.data["answer"]

    def score(self, row: Row, answer: str) -> Score:
        right = answer == row.data["answer"] and not row.data["spoilt"]
        return Score(float(right), {"right": float(right)})


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[int, str]:
    records = [{"prompt": str(n), "answer": str(n)} for n in range(20)] + [{"prompt": "none"}, {"prompt": "x", **more}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    params = f"{{test: {tmp_path}/rows.jsonl}}"
    environment = f"+environments.golden={{kind: {__name__}.Golden, domain: math, params: {params}}}"
    with pytest.raises(SystemExit) as end:
        main(["eval", "recipe=smoke", environment, "--check-gold"])
    return int(end.value.code or 0), capsys.readouterr().out


def test_golds_that_score_one_pass_and_rows_without_one_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(tmp_path, capsys, answer="x")
    assert code == 0
    assert "test         21/21 gold answers score 1; 1 rows have none" in said
    assert "math                     train        500/500 gold answers score 1\n" in said


def test_a_gold_that_does_not_score_one_is_shown_with_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(tmp_path, capsys, answer="x", spoilt=True)
    assert code == 1
    assert "20/21 gold answers score 1; 1 rows have none\n  golden/" in said
    assert "reward 0 {'right': 0.0}" in said
