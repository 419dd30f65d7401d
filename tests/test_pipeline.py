"""Gates stop a run or roll it back, say so, and cost no training when they are changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cascade.run_folder import read_status
from tests.conftest import cascade

SHORT = (
    "recipe=smoke",
    "~stages.math_teacher",
    "~stages.mopd.teachers.math",
    *(f"stages.{name}.max_steps=1" for name in ("sft", "if_rl", "mopd")),
)
NEVER_HOLDS = "stages.if_rl.gates=[{min_score: {math: 1.0}, action: %s}]"


def stages(run: Path) -> dict[str, dict]:
    return {stage["name"]: stage for stage in read_status(run)["stages"]}


def parent_of(run: Path, stage: str) -> str:
    with sqlite3.connect(run / "registry.db") as database:
        return database.execute("SELECT parent FROM checkpoints WHERE stage = ?", [stage]).fetchone()[0]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a gate after its second stage has stopped."""
    run = tmp_path_factory.mktemp("gates") / "run"
    done = cascade("run", *SHORT, NEVER_HOLDS % "stop", f"run_dir={run}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The gate of if_rl did not hold: math is at 0.000, 1.000 is asked for" in done.stderr
    assert "Traceback" not in done.stderr
    return run


def test_a_gate_that_stops_keeps_what_there_is(stopped: Path) -> None:
    found = stages(stopped)
    assert [found[name]["status"] for name in ("sft", "if_rl", "mopd")] == ["done", "stopped", "pending"]
    gate = found["if_rl"]["gates"][0]
    assert (gate["rule"], gate["domain"], gate["passed"], gate["action"]) == ("min_score", "math", False, "stop")


def test_another_action_goes_on_without_training_again_and_rolls_back_to_the_parent(stopped: Path) -> None:
    before = stages(stopped)
    weights = stopped / "stages" / "if_rl" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    done = cascade("run", *SHORT, NEVER_HOLDS % "rollback", f"run_dir={stopped}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "if_rl  gate: math is at 0.000, 1.000 is asked for: rollback" in done.stdout
    after = stages(stopped)
    assert after["if_rl"]["status"] == "rolled_back"
    assert after["if_rl"]["identity"] == before["if_rl"]["identity"]
    assert weights.stat().st_mtime_ns == written
    assert parent_of(stopped, "mopd") == after["sft"]["identity"]
    assert (
        "1.000 is asked for" in (stopped / "report.html").read_text()
        or "rolled" in (stopped / "report.html").read_text()
    )
