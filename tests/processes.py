"""Runs that need processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """Of a child: no launcher's names in it, and one thread a process."""
    inherited = {name: value for name, value in os.environ.items() if "RANK" not in name and "WORLD" not in name}
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        inherited.pop(name, None)
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**inherited, **threads, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **more}


def python(*words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS` in the repository's root; it must succeed."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def torchrun(processes: int, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs `torchrun --nproc_per_node PROCESSES WORDS`."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
    return python(*launcher, *words, timeout_s=timeout_s)


def metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage's metrics.jsonl."""
    return [json.loads(line) for line in (run / "stages" / stage / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, stages: Sequence[str]) -> dict[str, bytes]:
    """Stage -> the bytes of its exported weights."""
    return {stage: (run / "stages" / stage / "model" / "model.safetensors").read_bytes() for stage in stages}


STAGES = ("sft", "if_rl", "math_teacher", "mopd")
"""Of `two_processes.yaml`."""


def shared_run(temporary: Path, name: str, *overrides: str) -> Path:
    """The run folder `name` of `two_processes.yaml` in this test session, run once, from a model with some skill."""
    run = temporary / name
    if not (run / "report.html").exists():
        python("-m", "cascade", "run", *words_of(temporary, run), *overrides)
    return run


def words_of(temporary: Path, run: Path) -> list[str]:
    """The recipe that the tests of several processes share, in `run`."""
    base = temporary / "base_run"
    if not (base / "report.html").exists():
        python("-m", "cascade", "run", f"recipe={ROOT}/tests/two_processes_base.yaml", f"run_dir={base}")
    model = base / "stages" / "sft" / "model"
    return [f"recipe={ROOT}/tests/two_processes.yaml", f"model.path={model}", f"run_dir={run}"]
