"""`cascade score`: any completions against any rows, one verdict a line, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cascade.cli import main
from cascade.environments.row_source import RowEnvironment
from cascade.errors import DataError, FailureKind, VerifierFailure
from cascade.types import Attempt, Row, Score
from tests.conftest import cascade

HERE = "tests.test_score_files"


@dataclass(frozen=True, kw_only=True)
class Longest(RowEnvironment):
    """The longest answer of a group wins."""

    name: str = "longest"
    domain: str = "preference"
    prize: float = 1.0

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if "topic" not in record:
            raise DataError("No `topic`.", "Give one.")
        return {"topic": record["topic"]}

    def gold(self, row: Row) -> str:
        return "long"

    def score(self, row: Row, answer: str) -> Score:
        return Score(self.prize)

    def score_group(self, row: Row, attempts: Sequence[Attempt]) -> list[Score | VerifierFailure]:
        if row.data["topic"] == "politics":
            raise VerifierFailure(FailureKind.INFRASTRUCTURE, "the judge will not say")
        longest = max(len(attempt.answers[-1]) for attempt in attempts)
        masked = row.data["topic"] == "the weather"
        return [Score(self.prize * (len(attempt.answers[-1]) == longest), {}, masked) for attempt in attempts]


def lines(path: Path, records: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def scored(
    tmp_path: Path, kind: str, rows: Sequence[Any], completions: Sequence[Any], *more: str
) -> list[dict[str, Any]]:
    out = tmp_path / "out" / "verdicts.jsonl"
    out.parent.mkdir(exist_ok=True)
    files = ["--rows", lines(tmp_path / "rows.jsonl", rows), "--completions", lines(tmp_path / "c.jsonl", completions)]
    with pytest.raises(SystemExit) as end:
        main(["score", "--environment", kind, *files, "--out", str(out), *more])
    assert not end.value.code
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_one_verdict_a_line_in_the_order_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(4)]
    completions = [
        {"completion": "1"},
        {"completion": [{"role": "assistant", "content": "3"}]},
        {"completion": "<think>2+1</think>3"},
        {"completion": "<think>4"},
    ]
    verdicts = scored(tmp_path, "addition", rows, completions)
    assert [verdict["reward"] for verdict in verdicts] == [1.0, 0.0, 1.0, 0.0]
    assert all(verdict.keys() == {"reward", "parts", "masked", "status", "reason", "wall_s"} for verdict in verdicts)
    assert {verdict["status"] for verdict in verdicts} == {"ok"}
    assert verdicts[0]["parts"] == {"correct": 1.0}
    assert "4 verdicts, mean reward 0.5000  ok 4" in capsys.readouterr().out


def test_what_is_malformed_has_a_verdict_without_a_reward(tmp_path: Path) -> None:
    rows = [{"question": "1+1=", "answer": "2"}, {"question": "1+1="}, [], {"question": "1+1=", "answer": "2"}]
    completions = [{"completion": 4}, {"completion": "2"}, {"completion": "2"}, {"answer": "2"}]
    verdicts = scored(tmp_path, "addition", rows, completions)
    assert [(verdict["reward"], verdict["status"]) for verdict in verdicts] == [(None, "data")] * 4
    reasons = [verdict["reason"] for verdict in verdicts]
    for reason, said in zip(reasons, ("The completion is int", "`question`", "Row 3", "Line 4"), strict=True):
        assert said in reason


def test_neighbours_with_equal_rows_are_compared_and_others_are_not(tmp_path: Path) -> None:
    topics = ["cats", "cats", "dogs", "cats", "politics"]
    texts = ["long", "longer", "a", "b", "c"]
    verdicts = scored(
        tmp_path,
        f"{HERE}.Longest",
        [{"topic": topic} for topic in topics],
        [{"completion": text} for text in texts],
        "--param",
        "prize=0.5",
    )
    assert [verdict["reward"] for verdict in verdicts] == [0.0, 0.5, 0.5, 0.5, None]
    assert verdicts[-1]["status"] == "infrastructure"
    assert verdicts[-1]["reason"] == "the judge will not say"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--environment", "additon"], "Did you mean `addition`?"),
        (["--environment", "addition", "--param", "digts=2"], "Did you mean `digits`?"),
        (["--environment", "addition"], "has 2 rows and"),
        (["--environment", "addition", "--workers", "0"], "workers"),
    ],
)
def test_what_cannot_be_is_refused_in_two_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    rows = lines(tmp_path / "rows.jsonl", [{"question": "1+1=", "answer": "2"}] * 2)
    completions = lines(tmp_path / "completions.jsonl", [{"completion": "2"}])
    out = tmp_path / "verdicts.jsonl"
    with pytest.raises(SystemExit) as end:
        main(["score", *arguments, "--rows", rows, "--completions", completions, "--out", str(out)])
    assert end.value.code in (1, 2)
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_functions_beside_the_working_folder_are_found_and_their_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def short(completions, limit, **kwargs):\n"
        "    return [float(len(text) <= n) for text, n in zip(completions, limit)]\n"
    )
    rows = lines(tmp_path / "rows.jsonl", [{"prompt": "Be brief.", "limit": 5}, {"prompt": "Be brief.", "limit": None}])
    completions = lines(tmp_path / "completions.jsonl", [{"completion": "Yes."}, {"completion": "No."}])
    files = ["--rows", rows, "--completions", completions, "--out", str(tmp_path / "verdicts.jsonl")]
    environment = ["--environment", "reward_functions", "--param", "functions=[my_rewards.short]"]
    done = cascade("score", *environment, *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right, broken = map(json.loads, (tmp_path / "verdicts.jsonl").read_text().splitlines())
    assert (right["reward"], right["parts"]) == (1.0, {"short": 1.0})
    assert (broken["reward"], broken["status"]) == (None, "data")
    assert broken["reason"].startswith("TypeError: '<=' not supported")
    assert "my_rewards.py" in broken["reason"]
