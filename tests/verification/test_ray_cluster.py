"""Verdicts made on a Ray cluster of three nodes, one of which dies in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.environments.catalogue import build_environments
from cascade.errors import EngineError
from cascade.types import Verdict
from cascade.verification import ray_cluster
from cascade.verification.jobs import specs_of
from cascade.verification.ray_cluster import RayVerifiers
from tests.verification.test_local import configs, job

ray: Any = pytest.importorskip("ray")
STORE = 80 * 2**20  # bytes of a node's object store, the least that Ray takes


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Three nodes of one CPU, the third of which is `nodes.worker_nodes`' last."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)  # so that only PYTHONPATH tells workers where the project is
    node = {"num_cpus": 1, "object_store_memory": STORE}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(2):
            nodes.add_node(**node, wait=False)
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_every_verdict_arrives_once_although_a_node_dies(cluster: Any, tmp_path: Path) -> None:
    configured = configs(scratch=str(tmp_path), deadline_s=2.0)
    verifiers = RayVerifiers(
        build_environments(configured, 0), specs_of(configured, 0), address=cluster.address, cache_entries=0
    )
    answers = [*(f"note 0.01 {'x' * (n % 7)}{n}" for n in range(400)), "exit", "return nan", "burn 60"]
    found: list[list[Verdict]] = []
    try:
        asking = threading.Thread(target=lambda: found.extend(verifiers.verify([job(answers)])))
        asking.start()
        _until(lambda: _nodes_that_noted(tmp_path) >= 2 and _notes(tmp_path) >= 60)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert _notes(tmp_path) < 400, "the node died too late to prove anything"
        asking.join(120)
        assert not asking.is_alive()
        assert [verdict.status for verdict in found[0]] == ["ok"] * 400 + ["task", "data", "task"]
        assert [v.score and v.score.reward for v in found[0][:400]] == [float(len(answer)) for answer in answers[:400]]
        measured = verifiers.metrics()
        assert measured["verifiers/verdicts"] == len(answers)
        assert (measured["verifiers/timeouts"], measured["verifiers/deaths"]) == (1, 2)
        assert measured["verifiers/retries"] > 0
    finally:
        verifiers.close()
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there_is_an_error_that_names_the_key() -> None:
    with pytest.raises(EngineError, match=r"verifiers\.address"):
        RayVerifiers({}, {}, address="127.0.0.1:1")


def test_a_missing_ray_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install ray"):
        RayVerifiers({}, {})


def _notes(folder: Path) -> int:
    return sum(len(file.read_bytes()) for file in folder.glob("noted.*"))


def _nodes_that_noted(folder: Path) -> int:
    return len(list(folder.glob("noted.*")))


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
