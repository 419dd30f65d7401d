"""The pre-flight of a cluster: two processes here, three hosts, one that is missing, one whose files are its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cascade.doctor.cluster import check_cluster
from cascade.doctor.cluster_facts import Facts
from cascade.doctor.cluster_verdicts import agreement, clocks, files, links, resources
from cascade.errors import ConfigError
from cascade.meeting import Place
from cascade.serving.replica import free_port
from tests.launch.hosts import hosts
from tests.processes import ROOT, environment

A, B = Place(0, 0, "node1", "10.0.0.1"), Place(1, 0, "node2", "10.0.0.2")
DOCTOR = ("-m", "cascade", "doctor", "--cluster", "--json")


def findings(text: str) -> dict[str, dict[str, Any]]:
    """By name, from what rank 0 has printed."""
    return {finding["name"]: finding for finding in json.loads(text[text.index("[\n") : text.rindex("]") + 1])}


def launched(rank: int, world: int, host: str, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": host, "MASTER_PORT": str(port),
    }  # fmt: skip


def test_two_processes_are_well(tmp_path: Path) -> None:
    port, words = free_port(), [sys.executable, *DOCTOR, "--shared", str(tmp_path / "runs"), "--timeout-s", "60"]
    processes = [
        subprocess.Popen(
            words, cwd=ROOT, env=environment(**launched(rank, 2, "127.0.0.1", port)), stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    found = findings(said[0])
    for name in ("ranks", "clock", "ports", "shared files", "file locks"):
        assert found[name]["status"] == "ok", found[name]
    assert "right on 2 ranks" in found["all-reduce"]["detail"]
    assert found["cascade's code"]["status"] == found["torch"]["status"] == "ok"
    assert said[1] == ""  # rank 0 speaks
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_rank_that_is_missing_is_named_within_the_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *DOCTOR, "--shared", str(tmp_path), "--timeout-s", "1"],
        cwd=ROOT,
        env=environment(**launched(0, 3, "127.0.0.1", free_port())),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert findings(done.stdout)["ranks"]["detail"].startswith("Ranks 1, 2 of 3 did not come in 1 s")
    assert time.monotonic() - began < 100


def test_without_a_launcher_it_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was not started by a launcher"):
        check_cluster(tmp_path, 1)


def test_what_differs_is_named_with_its_rank() -> None:
    known = {A: Facts("node1", 0, {"torch": "2.13.0"}), B: Facts("node2", 0, {"torch": "2.12.0"})}
    known |= {Place(2, 1, "node1", "10.0.0.1"): Facts("node1", 1, {"torch": "2.13.0"})}
    (found,) = agreement(known)
    assert (found.status, found.detail) == ("failed", "2.13.0 at most, but 2.12.0 at rank 1 on node2")


def test_clocks_that_differ_by_more_than_a_second_are_a_warning() -> None:
    (found,) = clocks({B: -1.5}, [B], 10)
    assert (found.status, found.detail) == ("warning", "rank 1 on node2 is 1.500 s behind rank 0 at most")
    (silent,) = clocks({}, [B], 10)
    assert (silent.status, silent.detail) == ("failed", "rank 1 on node2 did not tell the time in 10 s")


def test_closed_ports_and_separate_files_fail() -> None:
    closed = links({A: ["port 5 of rank 1 on node2 at 10.0.0.2: timed out"], B: []}, [], 10)
    assert (closed.status, "rank 0 on node1 to port 5 of rank 1 on node2" in closed.detail) == ("failed", True)
    seen = {"seconds": 0.1, "whole": True, "created": True, "lock_refused": True}
    (twice,) = files({A: seen, B: seen}, Path("/runs"), 10)
    assert (twice.status, "2 ranks have created the same file" in twice.detail) == ("failed", True)
    assert [found.status for found in files({A: seen, B: {**seen, "created": False}}, Path("/runs"), 10)] == ["ok"] * 2


def test_the_node_with_the_least_room_is_named() -> None:
    roomy = {"disk_gib": 500.0, "temporary_gib": 50.0, "shm_gib": 64.0, "open_files": 65536}
    known = {A: Facts("node1", 0, {"GPUs": "none"}, **roomy), B: Facts("node2", 0, {"GPUs": "none"}, **roomy | LOW)}
    low = [found for found in resources(known) if found.status == "warning"]
    assert [(found.name, "rank 1 on node2" in found.detail) for found in low] == [("shared memory", True)]


LOW = {"shm_gib": 0.06}


@pytest.mark.slow
def test_three_hosts_are_well_and_one_with_files_of_its_own_or_a_missing_one_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with hosts(3, tmp_path) as made:

        def doctor(log: str, timeout_s: float, **private: Path) -> tuple[list[int], dict[str, dict[str, Any]]]:
            words = [*DOCTOR, "--shared", str(runs), "--timeout-s", str(timeout_s)]
            processes = [
                made.start(name, words, f"{log}_{name}.log", private.get(name), **launched(rank, 3, "node1", 29500))
                for rank, name in enumerate(made.names)
                if name not in absent
            ]
            codes = [process.wait(200) for process in processes]
            return codes, findings((tmp_path / f"{log}_node1.log").read_text())

        absent: set[str] = set()
        codes, found = doctor("well", 60)
        assert codes == [0, 0, 0], found
        assert found["ranks"]["detail"] == "all 3 on 3 node(s): node1: 1, node2: 1, node3: 1"
        assert found["ports"]["detail"] == "every node reaches every rank of the others (3 node(s))"
        assert "right on 3 ranks" in found["all-reduce"]["detail"]

        codes, found = doctor("own_files", 8, node3=runs)
        assert codes == [1, 1, 1]
        assert found["shared files"]["status"] == "failed"
        assert "rank 2 on node3: a file of rank 0" in found["shared files"]["detail"]
        assert found["ports"]["status"] == "ok"

        absent.add("node2")
        codes, found = doctor("missing", 20)
        assert codes == [1, 1]
        assert found["ranks"]["detail"].startswith("Rank 1 of 3 did not come in 20 s; there are node1: 1, node3: 1")
