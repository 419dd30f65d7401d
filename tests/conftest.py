"""The environment of every test, and one real run of the smoke recipe that tests share."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent


def _has_cuda() -> bool:
    """Without importing torch here: some tests assert that nothing has."""
    return shutil.which("nvidia-smi") is not None and importlib.util.find_spec("torch") is not None


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
if not _has_cuda():
    os.environ["DS_ACCELERATOR"] = "cpu"

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def cascade(*words: str, cwd: Path = REPOSITORY, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """`cascade WORDS` in a fresh process, outside of any launcher; stdout and stderr as text."""
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run(
        [sys.executable, "-m", "cascade", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def cascade_here(*words: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, some seconds faster: for commands that start nothing."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(list(words))
    return subprocess.CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


def children_cpu_s() -> float:
    """CPU seconds of the processes that have ended: what a command costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pytest_collection_finish() -> None:
    """DeepSpeed collects garbage a dozen times an engine; what all test modules have imported is none."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else nanobind takes what is frozen for leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group that an earlier test has joined leaves its rank behind; recipes are checked against it."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the smoke recipe. Shared: copy it before changing anything."""
    run_dir = tmp_path_factory.mktemp("smoke") / "run"
    done = cascade("run", "recipe=smoke", f"run_dir={run_dir}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return run_dir


@pytest.fixture
def smoke_copy(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the smoke run, to go on with or to damage."""
    return Path(shutil.copytree(smoke_run, tmp_path / "run"))
