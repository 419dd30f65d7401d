"""A whole run whose rollouts, evaluations and teachers are vLLM's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade.run_folder import read_status
from tests.conftest import cascade
from tests.processes import metrics
from tests.vllm_engine import needs_vllm

pytestmark = needs_vllm
SAMPLING = ("if_rl", "math_teacher", "mopd")


def check(run: Path) -> None:
    """Every stage is done, the engine had the policy's weights at every step, and sampled as the policy thinks."""
    assert {stage["status"] for stage in read_status(run)["stages"]} == {"done"}
    for stage in SAMPLING:
        lines = metrics(run, stage)
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert all(line["canary/max_abs_log_prob_gap"] < 1e-5 for line in lines[1:])
        assert all(line.get("sampler/mean_abs_log_prob_gap", 0.0) < 1e-5 for line in lines)


def test_smoke_recipe_with_vllm_in_the_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cascade("run", "recipe=smoke", "rollout=vllm_inprocess", "stages.mopd.max_staleness=1", f"run_dir={run}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    check(run)
    assert metrics(run, "mopd")[-1]["staleness/max"] == 1.0


@pytest.mark.slow
def test_smoke_recipe_with_two_servers_and_one_for_teachers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("recipe=smoke", "rollout=vllm_server", "rollout.replicas=2", "teachers=vllm_server", f"run_dir={run}")
    done = cascade("run", *words, timeout_s=590)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    check(run)
    assert metrics(run, "mopd")[-1]["publish/replicas"] == 2.0
    assert (run / "rollout" / "replica_1.log").is_file()
    assert not (run / "rollout" / "weights").exists()
