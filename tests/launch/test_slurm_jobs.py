"""Runs as jobs of a real SLURM: submitted, finished, queued again in the middle, failed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import Slurm, slurm
from tests.processes import ROOT, metrics, python, weights

pytestmark = pytest.mark.slow
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm() as made:
        yield made


def words(run: Path, *more: str) -> list[str]:
    return [
        *(f"recipe={ROOT}/tests/two_processes_base.yaml", f"run_dir={run}", "launch=slurm", "launch.nodes=2"),
        *("stages.sft.max_steps=60", "stages.sft.save_steps=10", *more),
    ]


def submit(cluster: Slurm, run: Path, *more: str) -> str:
    """`cascade run`: the id of the job."""
    done = subprocess.run(
        [sys.executable, "-m", "cascade", "run", *words(run, *more)],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("submitted job ")[1].split(":")[0]


def logs(run: Path) -> str:
    return "\n".join(f"== {file.name}\n{file.read_text()[-4000:]}" for file in (run / "launch" / "logs").glob("*"))


def wait_for_steps(run: Path, steps: int, timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not (run / "stages/sft/metrics.jsonl").exists() or len(metrics(run, "sft")) < steps:
        assert time.monotonic() < until, logs(run)
        time.sleep(0.05)


def test_a_job_trains_to_the_end_and_one_queued_again_in_the_middle_ends_with_the_same_weights(
    cluster: Slurm, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    job = submit(cluster, whole)
    assert cluster.wait(job, ENDS, 500) == "COMPLETED", logs(whole)
    assert [line["step"] for line in metrics(whole, "sft")] == list(range(1, 61))
    assert (whole / "report.html").exists()
    assert "0: sft" in (whole / "launch" / "logs" / f"train-{job}.log").read_text()

    job = submit(cluster, cut)
    wait_for_steps(cut, 15)
    cluster.ask("scontrol", "requeue", job)
    steps = len(metrics(cut, "sft"))
    assert steps < 60
    assert cluster.wait(job, ENDS, 500) == "COMPLETED", logs(cut)
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", job)
    assert [line["step"] for line in metrics(cut, "sft")] == list(range(1, 61))
    assert weights(cut, ["sft"]) == weights(whole, ["sft"])


def test_a_job_near_its_time_limit_queues_itself_again_and_goes_on(cluster: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    soon = ("launch.slurm.time_limit='3:00'", "launch.slurm.signal_s=100", "launch.slurm.requeues=1")
    job = submit(cluster, run, *soon, "stages.sft.max_steps=100000", "evaluation.test_rows=1")
    until = time.monotonic() + 200
    while "Restarts=1" not in cluster.ask("scontrol", "show", "job", job):
        assert time.monotonic() < until, logs(run) + cluster.logs()
        time.sleep(0.5)
    assert "queued again, and goes on" in (run / "launch" / "logs" / f"job-{job}.log").read_text()
    steps = len(metrics(run, "sft")) if (run / "stages/sft/metrics.jsonl").exists() else 0
    wait_for_steps(run, steps + 1, 400)  # from the last checkpoint on, past where it was
    cluster.ask("scancel", job)
    assert cluster.wait(job, ENDS, 60) == "CANCELLED"


def test_the_first_error_ends_the_job_and_is_the_last_line_of_its_log(cluster: Slurm, tmp_path: Path) -> None:
    run, package = tmp_path / "run", tmp_path / "own"
    package.mkdir()
    (package / "failing.py").write_text(FAILING)
    cluster.environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(package)])
    job = submit(cluster, run, "environments.math.kind=failing.FailsOnRankOne")
    assert cluster.wait(job, ENDS, 400) == "FAILED", logs(run)
    said = (run / "launch" / "logs" / f"job-{job}.log").read_text()
    first = next(line for line in said.splitlines() if line.startswith("cascade: first error: "))
    assert "rank 1" in first
    assert "the disk of rank 1 is gone" in first


def test_the_doctor_under_srun_knows_every_rank(cluster: Slurm, tmp_path: Path) -> None:
    said = cluster.ask(
        *("srun", "--nodes=2", "--ntasks-per-node=1", f"--chdir={ROOT}", sys.executable),
        *("-m", "cascade", "doctor", "--cluster", "--shared", str(tmp_path / "runs"), "--timeout-s", "30"),
    )
    assert "all 2 on 1 node(s)" in said  # three slurmd, one host name
    assert "failed" not in said


FAILING = """
import os

from cascade.environments.addition import Addition


class FailsOnRankOne(Addition):
    def messages(self, row):
        if os.environ.get("RANK") == "1":
            raise OSError("the disk of rank 1 is gone")
        return super().messages(row)
"""


def test_slurm_accepts_the_script(cluster: Slurm, tmp_path: Path) -> None:
    python("-m", "cascade", "launch", *words(tmp_path / "run"))
    cluster.ask("sbatch", "--test-only", str(tmp_path / "run" / "launch" / "job.sbatch"))


def test_servers_and_verifiers_in_parts_of_their_own_are_found(cluster: Slurm, tmp_path: Path) -> None:
    """A heterogeneous job: one process trains, one vLLM server samples, one Ray node scores."""
    if not importlib.util.find_spec("vllm") or not importlib.util.find_spec("ray"):
        pytest.skip("vLLM and Ray are not both installed")
    run = tmp_path / "run"
    small = ("stages.sft.max_steps=2", "stages.if_rl.max_steps=2", "evaluation.validation_rows=4")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cascade", "run", "recipe=smoke", f"run_dir={run}", "launch=slurm"),
            *("rollout=vllm_server", "rollout.transport=disk", "rollout.max_model_len=128", "launch.rollout_nodes=1"),
            *("verifiers=ray", "verifiers.workers=1", "launch.verifier_nodes=1", "evaluation.test_rows=4", *small),
            *("~stages.math_teacher", "~stages.mopd"),
        ],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    job = done.stdout.split("submitted job ")[1].split(":")[0]
    assert cluster.wait(job, ENDS, 500) == "COMPLETED", logs(run)
    assert len(metrics(run, "if_rl")) == 2
    until = time.monotonic() + 60
    while cluster.ask("squeue", "-h").strip():  # the other parts end with it
        assert time.monotonic() < until
        time.sleep(0.5)
