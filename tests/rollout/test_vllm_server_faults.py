"""Servers that are killed, and updates that break off: no rollout is lost, none is doubled, none is of old weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascade.errors import EngineError
from cascade.rollout.vllm_server import VllmServerEngine
from cascade.serving.client import Client
from tests.processes import ROOT, environment
from tests.rollout.embedded import flat, prompts
from tests.rollout.served import Weights, gap, long_prompts, names, policy_of, sampled_gap
from tests.tiny_models import sequences

Moe = Callable[[int], Path]
LONG = 240
BACK_S = 150.0


def test_a_killed_replica_loses_no_rollout_and_returns_with_the_current_weights(
    served: VllmServerEngine, moe: Moe, served_folder: Path
) -> None:
    served.publish(policy_of(moe(1)), 2)
    before = dict(served.counters)
    victims = _processes(served_folder, 0)
    assert len(victims) >= 3  # the server, its engine and a worker
    with ThreadPoolExecutor() as threads:
        sampling = threads.submit(served.generate, long_prompts(12), 4, 1.0, [LONG] * 12, 5)
        _until(lambda: served.replicas.busy > 4, 10, "requests are at the replicas")
        os.kill(victims[0], signal.SIGKILL)
        rollouts = flat(sampling.result(timeout=60))
    assert names(rollouts) == [(f"long{i}", j) for i in range(12) for j in range(4)]
    assert {r.finish_reason for r in rollouts} <= {"stop", "length"}
    assert {r.policy_version for r in rollouts} == {2}
    assert sampled_gap(rollouts, Weights(moe(1)), 1.0) < 1e-5
    assert served.counters["failovers"] > before["failovers"]
    _until(lambda: not any(_alive(pid) for pid in victims), 10, "all of the replica's processes are gone")
    _until(lambda: served.replicas.live == 2, BACK_S, "the replica is back")
    assert served.counters["restarts"] == before["restarts"] + 1
    assert _gap_of_replica(served, 0, Weights(moe(1))) < 1e-5
    assert "== start 2 of replica 0" in (served_folder / "replica_0.log").read_text()


@pytest.mark.slow
def test_a_publish_that_breaks_off_at_one_replica_reaches_the_others(
    served: VllmServerEngine, moe: Moe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(served.counters)
    _truncate_buckets(served, monkeypatch, served.replicas.urls[1:])
    assert served.publish(policy_of(moe(1)), 1)["publish/replicas"] == 1.0
    monkeypatch.undo()
    rollouts = flat(served.generate(prompts(), 2, 1.0, [8] * 9, 5))
    assert {r.policy_version for r in rollouts} == {1}
    assert sampled_gap(rollouts, Weights(moe(1)), 1.0) < 1e-5
    served.publish(policy_of(moe(2)), 2)  # while the other one starts
    _until(lambda: served.replicas.live == 2, BACK_S, "the replica is back")
    assert served.counters["restarts"] == before["restarts"] + 1
    for replica in (0, 1):
        assert _gap_of_replica(served, replica, Weights(moe(2))) < 1e-5


@pytest.mark.slow
def test_a_publish_that_breaks_off_everywhere_is_an_error_and_the_weights_before_return(
    served: VllmServerEngine, moe: Moe, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.publish(policy_of(moe(1)), 1)
    _truncate_buckets(served, monkeypatch, served.replicas.urls)
    with pytest.raises(EngineError, match=r"No replica took over version 2: .*/update_weights answered 500"):
        served.publish(policy_of(moe(2)), 2)
    monkeypatch.undo()
    assert served.version == 1
    rollouts = flat(served.generate(prompts(), 2, 1.0, [8] * 9, 5))  # waits for a replica
    assert {r.policy_version for r in rollouts} == {1}
    assert sampled_gap(rollouts, Weights(moe(1)), 1.0) < 1e-5
    _until(lambda: served.replicas.live == 2, BACK_S, "both replicas are back")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_replica_killed_ten_times_loses_no_rollout(served: VllmServerEngine, moe: Moe, served_folder: Path) -> None:
    restarts, kills, step = served.counters["restarts"], 0, 0
    with ThreadPoolExecutor() as threads:
        while kills < 10:
            step += 1
            served.publish(policy_of(moe(step % 3)), step)
            sampling = threads.submit(served.generate, long_prompts(8), 4, 1.0, [LONG] * 8, step)
            if served.replicas.live == 2:
                _until(lambda: served.replicas.busy > 4, 10, "requests are at the replicas")
                os.kill(_processes(served_folder, kills % 2)[0], signal.SIGKILL)
                kills += 1
            rollouts = flat(sampling.result(timeout=120))
            assert names(rollouts) == [(f"long{i}", j) for i in range(8) for j in range(4)]
            assert all(r.finish_reason != "abort" and r.policy_version == step for r in rollouts)
            assert sampled_gap(rollouts, Weights(moe(step % 3)), 1.0) < 1e-5
    _until(lambda: served.replicas.live == 2, BACK_S, "the last one killed is back")
    assert served.counters["restarts"] >= restarts + 10


@pytest.mark.slow
def test_servers_end_with_a_killed_parent(tmp_path: Path, moe: Moe) -> None:
    """Killed where nothing can be cleaned up, once the server, its engine and its worker are there."""
    script = "import sys; from tests.rollout.parent import main; main(sys.argv[1], sys.argv[2])"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(moe(0)), str(tmp_path)], cwd=ROOT, env=environment(DS_ACCELERATOR="cpu")
    )
    log = tmp_path / "replica_0.log"
    try:
        _until(lambda: log.exists() and "Worker pid=" in log.read_text(), BACK_S, "the worker runs")
        servers = _processes(tmp_path, 0)
        assert len(servers) >= 3
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not any(_alive(pid) for pid in servers), 10, "no process of the server is left")


def _truncate_buckets(engine: VllmServerEngine, monkeypatch: pytest.MonkeyPatch, urls: list[str]) -> None:
    """The servers at `urls` get the first half of every bucket's file."""
    transport = engine.replicas._transport
    whole = transport.send

    async def send(client: Client, staged: Path) -> None:
        if client.url not in urls:
            await whole(client, staged)
            return
        half = staged.with_name(f"half{urls.index(client.url)}.safetensors")
        half.write_bytes(staged.read_bytes()[: staged.stat().st_size // 2])
        await whole(client, half)

    monkeypatch.setattr(transport, "send", send)


def _gap_of_replica(engine: VllmServerEngine, replica: int, truth: Weights) -> float:
    """The largest difference to the truth of what one replica thinks of some sequences."""
    replicas, asked = engine.replicas, sequences(4)
    client = replicas.pool.members[replica].client
    found = []
    for sequence in asked:
        entries = replicas.background.run(client.score(sequence.token_ids))
        found.append([entry.get(token, 0.0) for entry, token in zip(entries, sequence.token_ids, strict=True)])
    return gap(found, asked, truth, 1.0)


def _processes(folder: Path, replica: int) -> list[int]:
    """The processes that write to a replica's log, the server itself first."""
    log = folder / f"replica_{replica}.log"
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "fd" / "1").readlink() == log:
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s until {what}"
        time.sleep(0.05)
