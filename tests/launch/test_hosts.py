"""Training on several hosts: network namespaces with gloo between them, one of which is cut off in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.hosts import Hosts, hosts
from tests.processes import ROOT, metrics, weights

PEER_TIMEOUT_S = 6
pytestmark = pytest.mark.slow


def words(run: Path, steps: int = 60) -> list[str]:
    """A small training on two hosts that meet on the first one."""
    return [
        *("-m", "cascade", "run", f"recipe={ROOT}/tests/two_processes_base.yaml", f"run_dir={run}"),
        *("launch=torchrun", "launch.nodes=2", "launch.rendezvous=node1:29400", "launch.start_timeout_s=60"),
        *(f"launch.peer_timeout_s={PEER_TIMEOUT_S}", f"stages.sft.max_steps={steps}", "stages.sft.save_steps=10"),
    ]


def both(made: Hosts, run: Path, log: str, *more: str) -> list[subprocess.Popen[str]]:
    return [made.start(name, [*words(run), *more], f"{log}_{name}.log") for name in made.names[:2]]


def ended(processes: list[subprocess.Popen[str]], timeout_s: float) -> list[int]:
    until = time.monotonic() + timeout_s
    return [process.wait(max(0.1, until - time.monotonic())) for process in processes]


def wait_for_steps(run: Path, steps: int, processes: list[subprocess.Popen[str]], timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not (run / "stages/sft/metrics.jsonl").exists() or len(metrics(run, "sft")) < steps:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until, f"no {steps} steps in {timeout_s} s"
        time.sleep(0.05)


@pytest.mark.parametrize("lost", ["node1", "node2"])
def test_a_host_that_is_cut_off_is_named_within_the_deadline_and_a_second_start_resumes_exactly(
    tmp_path: Path, lost: str
) -> None:
    with hosts(3, tmp_path) as made:
        whole = tmp_path / "whole"
        assert ended(both(made, whole, "whole"), 500) == [0, 0], (tmp_path / "whole_node1.log").read_text()[-3000:]

        run = tmp_path / "run"
        processes = both(made, run, "cut")
        wait_for_steps(run, 23, processes)
        made.cut(lost)
        began = time.monotonic()
        codes = ended(processes, 60)
        assert all(codes), codes
        assert time.monotonic() - began < 45
        steps = len(metrics(run, "sft"))
        assert 23 <= steps < 60
        other = {"node1": "node2", "node2": "node1"}[lost]
        said = (tmp_path / f"cut_{other}.log").read_text()
        assert f"on {lost}" in said
        assert "is lost" in said or "not answer" in said

        made.mend(lost)
        assert ended(both(made, run, "again"), 500) == [0, 0], (tmp_path / "again_node1.log").read_text()[-3000:]
    assert [line["step"] for line in metrics(run, "sft")] == list(range(1, 61))
    assert weights(run, ["sft"]) == weights(whole, ["sft"])


def worker_of(agent: int) -> int:
    """The process that trains, below torchrun."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return next(int(child) for child in children if b"cascade" in Path(f"/proc/{child}/cmdline").read_bytes())


def test_a_worker_that_is_killed_is_started_again_with_all_others_and_nothing_is_lost(tmp_path: Path) -> None:
    with hosts(2, tmp_path) as made:
        whole, run = tmp_path / "whole", tmp_path / "run"
        assert ended(both(made, whole, "whole"), 500) == [0, 0], (tmp_path / "whole_node1.log").read_text()[-3000:]
        processes = both(made, run, "killed", "launch.max_restarts=2")
        wait_for_steps(run, 15, processes)
        os.kill(worker_of(processes[1].pid), signal.SIGKILL)
        assert ended(processes, 500) == [0, 0], (tmp_path / "killed_node1.log").read_text()[-3000:]
    assert [line["step"] for line in metrics(run, "sft")] == list(range(1, 61))
    assert weights(run, ["sft"]) == weights(whole, ["sft"])


def launcher_words(launcher: str, rank: int, folder: Path) -> list[str]:
    """As the README of launch/LAUNCHER says, with one process a host and no GPUs."""
    if launcher == "accelerate":
        return [
            *("-m", "accelerate.commands.launch", "--config_file", f"{ROOT}/launch/accelerate/two_nodes.yaml"),
            *("--num_processes", "2", "--machine_rank", str(rank), "--main_process_ip", "node1", "-m"),
        ]
    (folder / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    return [
        *(str(Path(sys.executable).parent / "deepspeed"), "--hostfile", str(folder / "hostfile"), "--no_ssh"),
        *("--node_rank", str(rank), "--master_addr", "node1", "--master_port", "29500", "--module"),
    ]


@pytest.mark.parametrize("launcher", ["accelerate", "deepspeed"])
def test_other_launchers_start_the_same_run_on_two_hosts(tmp_path: Path, launcher: str) -> None:
    run = tmp_path / "run"
    recipe = (f"recipe={ROOT}/tests/two_processes_base.yaml", f"run_dir={run}", "stages.sft.max_steps=2")
    with hosts(2, tmp_path) as made:
        processes = [
            made.start(name, [*launcher_words(launcher, rank, tmp_path), "cascade", "run", *recipe], f"{name}.log")
            for rank, name in enumerate(made.names)
        ]
        assert ended(processes, 500) == [0, 0], "".join(
            (tmp_path / f"{name}.log").read_text()[-3000:] for name in made.names
        )
    assert [line["step"] for line in metrics(run, "sft")] == [1, 2]
    said = [(tmp_path / f"{name}.log").read_text().count("sft  2/2") for name in made.names]
    assert sorted(said) == [0, 1]  # one process speaks: it is one run of two, and not two of one
