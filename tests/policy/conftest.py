"""What the tests of the policy share: tiny models, and a short training run with a record of what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.types import PackedBatch
from tests.tiny_models import batches, policy_config, sequences, write_model

STEPS = 3


@dataclass(frozen=True)
class Trace:
    """Steps of training."""

    losses: list[float]
    norms: list[float]


Train = Callable[[DeepSpeedPolicy, Sequence[Sequence[PackedBatch]]], Trace]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with an untrained model of it."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path = root / kind
        return path if path.exists() else write_model(path, kind)

    return folder


@pytest.fixture(scope="session")
def steps() -> Callable[..., list[list[PackedBatch]]]:
    """Kind -> the micro-batches of some steps."""

    def of(kind: str, count: int = STEPS, seed: int = 0) -> list[list[PackedBatch]]:
        return [batches(sequences(7, seed=seed + step), policy_config(kind)) for step in range(count)]

    return of


@pytest.fixture(scope="session")
def train() -> Train:
    """Trains a policy on the micro-batches of every step."""

    def run(policy: DeepSpeedPolicy, steps: Sequence[Sequence[PackedBatch]], learning_rate: float = 1e-3) -> Trace:
        trace = Trace([], [])
        for step in steps:
            loss = 0.0
            for batch in step:
                log_probs, _ = policy.log_probs(batch)
                part = -(log_probs * batch.token_weight).sum()
                policy.backward(part)
                loss += part.item()
            trace.norms.append(policy.step(learning_rate)["grad_norm"])
            trace.losses.append(loss)
        return trace

    return run


@pytest.fixture(scope="session")
def snapshot() -> Callable[[DeepSpeedPolicy], dict[str, torch.Tensor]]:
    """Everything that a policy publishes."""

    def take(policy: DeepSpeedPolicy) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in policy.weights()}

    return take
