"""Metrics and rollouts on disk, and what a resumed run finds there."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from cascade.run_folder import RunFolder
from cascade.tracking.files import FileTracker, read_metrics
from cascade.types import Rollout


@pytest.fixture
def tracked(tmp_path: Path, group: list[Rollout]) -> RunFolder:
    folder = RunFolder(tmp_path)
    tracker = FileTracker(folder)
    for step in range(1, 6):
        tracker.step("if_rl", step, {"reward": step / 10})
        tracker.rollouts("if_rl", step, group)
    tracker.close()
    return folder


def steps(folder: RunFolder) -> list[int]:
    return [json.loads(line)["step"] for line in folder.metrics("if_rl").read_text().splitlines()]


def test_a_line_is_on_disk_after_its_step_and_is_valid_json_for_any_number(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tracker = FileTracker(folder)
    tracker.step("if_rl", 1, {"loss": math.nan, "kl": math.inf, "reward": 0.5})
    line = json.loads(folder.metrics("if_rl").read_text(), parse_constant=pytest.fail)
    assert line.pop("time") > 1.7e9
    assert line == {"step": 1, "loss": None, "kl": None, "reward": 0.5}
    tracker.close()


def test_rewind_leaves_what_a_run_stopped_at_that_step_would_have(tracked: RunFolder, group: list[Rollout]) -> None:
    with tracked.metrics("if_rl").open("a") as file:
        file.write('{"step": 6, "rew')  # torn by a kill
    (tracked.rollouts("if_rl") / ".step_000006.parquet.1.tmp").touch()
    tracker = FileTracker(tracked)
    tracker.rewind("if_rl", 3)
    assert steps(tracked) == [1, 2, 3]
    assert sorted(p.name for p in tracked.rollouts("if_rl").iterdir()) == [f"step_{i:06d}.parquet" for i in (1, 2, 3)]
    tracker.step("if_rl", 4, {"reward": 0.4})
    tracker.rewind("if_rl", 3)  # also while the file is open
    tracker.step("if_rl", 4, {"reward": 0.4})
    tracker.close()
    assert steps(tracked) == [1, 2, 3, 4]


def test_rewinding_a_stage_that_never_began_does_nothing(tmp_path: Path) -> None:
    FileTracker(RunFolder(tmp_path)).rewind("if_rl", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_is_not_grown_onto_and_not_read(tracked: RunFolder) -> None:
    with tracked.metrics("if_rl").open("a") as file:
        file.write('{"step": 6, "rew')
    assert [line["step"] for line in read_metrics(tracked.metrics("if_rl"))] == [1, 2, 3, 4, 5]
    tracker = FileTracker(tracked)
    tracker.step("if_rl", 6, {})
    tracker.close()
    assert steps(tracked) == [1, 2, 3, 4, 5, 6]


def test_rollouts_come_back_from_parquet(tracked: RunFolder) -> None:
    rows = parquet.read_table(tracked.rollouts("if_rl") / "step_000005.parquet").to_pylist()
    first, failed = rows[0], rows[-1]
    assert first["token_ids"] == [5, 2]
    assert first["sampler_log_probs"] == pytest.approx([-0.1, -0.02])
    assert first["prompt_token_ids"] == [3, 17, 9]
    assert json.loads(first["prompt"]) == {"question": "17+25", "answer": "42"}
    assert (first["reward"], json.loads(first["parts"])) == (0.5, {"correct": 0.5})
    assert (first["sample"], first["policy_version"], first["finish_reason"]) == (0, 11, "stop")
    assert (failed["reward"], failed["failure"]) == (None, "infrastructure: no answer in 30 s")


def test_prompts_are_decoded_when_there_is_a_decoder(tmp_path: Path, group: list[Rollout]) -> None:
    folder = RunFolder(tmp_path)
    FileTracker(folder, decode=lambda ids: f"decoded {list(ids)}").rollouts("if_rl", 1, group)
    rows = parquet.read_table(folder.rollouts("if_rl") / "step_000001.parquet").to_pylist()
    assert rows[0]["prompt"] == "decoded [3, 17, 9]"


def test_a_disk_that_fails_warns_once_and_does_not_stop(
    tmp_path: Path, group: list[Rollout], caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "stages").write_text("a file where a folder is due")
    tracker = FileTracker(folder)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            tracker.step("if_rl", step, {"reward": 0.5})
            tracker.rollouts("if_rl", step, group)
    assert [record.message.startswith("Metrics or rollouts of if_rl") for record in caplog.records] == [True]
