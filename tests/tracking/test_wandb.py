"""wandb with its real client, offline."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.tracking.wandb import WandbTracker
from cascade.types import Rollout


def session(folder: Path, group: list[Rollout], steps: range) -> None:
    tracker = WandbTracker(folder, "cascade-tests", "quickstart", "offline", {"seed": 1}, rollouts_every=2)
    for step in steps:
        tracker.step("if_rl", step, {"reward": 0.5, "loss": float("nan")})
        tracker.rollouts("if_rl", step, group)
    tracker.close()


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we logged; wandb's own records go to its debug.log, and pytest sees them on the way."""
    return [record.message for record in caplog.records if record.name == "cascade.tracking.wandb"]


def test_two_sessions_are_one_wandb_run(
    tmp_path: Path, group: list[Rollout], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        session(tmp_path, group, range(1, 3))
        first = (tmp_path / "wandb_id").read_text()
        session(tmp_path, group, range(3, 5))
    assert (tmp_path / "wandb_id").read_text() == first
    written = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{first}.wandb"))
    assert len(written) in (1, 2)  # within one second both sessions share a folder
    content = b"".join(path.read_bytes() for path in written)
    assert b"if_rl/reward" in content
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/table/if_rl/rollouts_*.table.json"))
    assert capfd.readouterr() == ("", "")
    assert ours(caplog) == []


def test_off_creates_nothing_and_does_not_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cascade.tracking.wandb import WandbTracker\n"
        f"t = WandbTracker(Path({str(tmp_path / 'run')!r}), 'p', 'n', 'off', {{}})\n"
        "t.step('s', 1, {'a': 1.0}); t.rollouts('s', 10, []); t.close(); assert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_that_dies_warns_once_and_training_goes_on(
    tmp_path: Path, group: list[Rollout], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = WandbTracker(tmp_path, "cascade-tests", "quickstart", "offline", {}, rollouts_every=1)
    run = tracker._run

    def broken(*_: object, **__: object) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(run, "log", broken)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            tracker.step("if_rl", step, {"reward": 0.5})
            tracker.rollouts("if_rl", step, group)
        tracker.close()
    run.finish()
    assert ours(caplog) == ["wandb failed (ConnectionResetError: Connection lost) and is off for the rest of this run."]


def test_online_without_a_key_warns_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker(tmp_path / "run", "cascade-tests", "quickstart", "online", {})
    tracker.step("if_rl", 1, {"reward": 0.5})
    tracker.close()
    assert ["wandb failed" in message for message in ours(caplog)] == [True]
