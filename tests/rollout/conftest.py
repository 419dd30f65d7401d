"""Two vLLM servers on a tiny mixture of experts with tied embeddings, started once a test session."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cascade.config import RolloutConfig
from cascade.rollout.vllm_server import VllmServerEngine
from tests.rollout.served import KIND, model, served_config
from tests.tiny_models import TOKENIZER, policy_config


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the session's engine: logs and restart copies."""
    return tmp_path_factory.mktemp("served") / "rollout"


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Seed -> the folder of an untrained model."""
    root = tmp_path_factory.mktemp("moe")
    return lambda seed: model(root, seed)


@pytest.fixture(scope="session")
def session_engine(served_folder: Path, moe: Callable[[int], Path]) -> Iterator[VllmServerEngine]:
    """Two replicas over shm. Tests use `served`."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: `make vllm`")
    engine = VllmServerEngine(policy_config(KIND), served_config(), TOKENIZER, served_folder)
    engine.load(moe(0))
    yield engine
    engine.close()


@pytest.fixture
def served(session_engine: VllmServerEngine, moe: Callable[[int], Path]) -> VllmServerEngine:
    """The session's engine with the weights of seed 0."""
    session_engine.load(moe(0))
    return session_engine


@pytest.fixture
def beside(session_engine: VllmServerEngine, tmp_path: Path) -> Iterator[Callable[..., VllmServerEngine]]:
    """Further engines on the session's servers, given by URL; not loaded yet."""
    made: list[VllmServerEngine] = []

    def engine(**keys: object) -> VllmServerEngine:
        config: RolloutConfig = served_config(urls=session_engine.replicas.urls, **keys)
        made.append(VllmServerEngine(policy_config(KIND), config, TOKENIZER, tmp_path / "beside"))
        return made[-1]

    yield engine
    for one in made:
        one.close()
