"""The layout of a run and the state of its stages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cascade.errors import ConfigError, DataError
from cascade.run_folder import RunFolder, StageStatus, checkpoint_stages, read_status, write_json
from cascade.types import GateResult, SplitScore, StageResult

GATE = GateResult("max_drop", "math", 0.05, 0.12, False, "warn")
SCORES = {"test": {"math": SplitScore(0.5, 0.02, 300), "code": SplitScore(0.2, 0.03, 100, 0.4, 4)}}
RESULT = StageResult("if_rl", "rl", "ab12", "sft", 40, 32.5, {"math": "cd34"}, SCORES, (GATE,))


def test_the_paths_are_those_of_the_design(tmp_path: Path) -> None:
    run, stage = RunFolder(tmp_path), tmp_path / "stages" / "if_rl"
    assert run.registry == tmp_path / "registry.db"
    assert run.report == tmp_path / "report.html"
    assert run.stage("if_rl") == stage
    assert run.stage_status("if_rl") == stage / "status.json"
    assert run.metrics("if_rl") == stage / "metrics.jsonl"
    assert run.rollouts("if_rl") == stage / "rollouts"
    assert run.checkpoints("if_rl") == stage / "checkpoints"
    assert run.model("if_rl") == stage / "model"
    assert run.evaluation("if_rl") == stage / "evaluation.json"


def test_a_status_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run, status = RunFolder(tmp_path), StageStatus.of(RESULT, "done")
    run.write_status(status)
    assert run.stage_state("if_rl") == status
    assert run.stage_state("other") is None


def test_a_gate_value_of_nan_survives_json(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_status(StageStatus("a", "rl", None, gates=(GateResult("min", "math", 0.5, math.nan, False, "stop"),)))
    assert "NaN" not in run.stage_status("a").read_text()
    state = run.stage_state("a")
    assert state is not None
    assert math.isnan(state.gates[0].value)


def test_read_status_has_exactly_the_agreed_shape(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "quickstart")
    declared = [("sft", "sft", None), ("if_rl", "rl", "sft")]
    write_json(run.stages_file, [{"name": n, "kind": k, "parent": p} for n, k, p in declared])
    run.write_status(StageStatus.of(RESULT, "done"))
    found = read_status(run.path)
    pending = {"steps": 0, "wall_s": 0.0, "identity": "", "teachers": {}, "scores": {}, "gates": []}
    done = {
        "steps": 40,
        "wall_s": 32.5,
        "identity": "ab12",
        "teachers": {"math": "cd34"},
        "scores": {
            "test": {
                "math": {"mean": 0.5, "stderr": 0.02, "n": 300},
                "code": {"mean": 0.2, "stderr": 0.03, "n": 100, "pass_at_k": 0.4, "k": 4},
            }
        },
        "gates": [
            {"rule": "max_drop", "domain": "math", "threshold": 0.05, "value": 0.12, "passed": False, "action": "warn"}
        ],
    }
    assert found == {
        "run": "quickstart",
        "stages": [
            {"name": "sft", "kind": "sft", "parent": None, "status": "pending", **pending},
            {"name": "if_rl", "kind": "rl", "parent": "sft", "status": "done", **done},
        ],
        "registry": 0,
    }
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_is_no_run_is_a_clear_error(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(ConfigError, match=r"nothing is not a run: it (does not exist|has no stages.json)\."):
        read_status(folder)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.stages_file, [{"name": "a", "kind": "rl", "parent": None}])
    run.stage("a").mkdir(parents=True)
    run.stage_status("a").write_text('{"name": "a"')
    with pytest.raises(DataError, match=r"status\.json is not JSON"):
        read_status(tmp_path)
    run.stage_status("a").write_text('{"name": "a"}')
    with pytest.raises(DataError, match="expected shape"):
        read_status(tmp_path)
    run.stage_status("a").unlink()
    run.registry.write_text("no database, only text that is long enough to be read as one" * 20)
    with pytest.raises(DataError, match=r"registry\.db cannot be read"):
        checkpoint_stages(run)
