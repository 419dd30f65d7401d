"""One vLLM engine in the test process, shared by all tests that use it: starting one costs seconds."""

from __future__ import annotations

import atexit
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import RolloutConfig
from cascade.types import Prompt, Rollout, Row, TrainingSequence
from tests.tiny_models import TOKENIZER, policy_config, write_model

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (`make vllm`)")
HEAD = {"head_dim": 32}  # the smallest that vLLM's attention on CPUs takes
LENGTH = 96
_shared: dict[str, Any] = {}
_folders: dict[tuple[str, int], Path] = {}


def tiny_folder(kind: str, seed: int = 0) -> Path:
    """An untrained model of `kind` that vLLM can run, written once."""
    if (kind, seed) not in _folders:
        root = tempfile.TemporaryDirectory()
        atexit.register(root.cleanup)
        _folders[kind, seed] = write_model(Path(root.name) / "model", kind, seed, **HEAD)
    return _folders[kind, seed]


def new_engine(kind: str, **policy: Any) -> Any:
    """An engine without weights."""
    from cascade.rollout.vllm_inprocess import VllmInProcessEngine

    config = RolloutConfig(engine="vllm_inprocess", max_model_len=LENGTH, kv_cache_gib=0.05, bucket_mib=1)
    return VllmInProcessEngine(policy_config(kind, **policy), config, TOKENIZER)


def vllm_engine(kind: str) -> Any:
    """The shared engine with the weights of `tiny_folder(kind)`; starts anew when another kind had it before."""
    engine = _shared.get("engine") or new_engine(kind)
    if not _shared:
        atexit.register(engine.close)
    _shared["engine"] = engine
    engine.load(tiny_folder(kind))
    return engine


def without_shared_engine() -> None:
    """Closes the shared engine: one vLLM at a time runs in a process. The next `vllm_engine` starts it again."""
    if _shared:
        _shared["engine"].close()


def changed_model(kind: str, seed: int, dtype: torch.dtype = torch.float32, scale: float = 0.1) -> Any:
    """The model of `tiny_folder(kind)` with every parameter moved, as a large training step would."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype) * scale)
    return model


class LocalPolicy:
    """The part of `ports.Policy` that publishing uses, around a plain model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As `DeepSpeedPolicy` yields them: parameters, then persistent buffers."""
        persistent = set(self.model.state_dict())
        yield from ((name, parameter.detach()) for name, parameter in self.model.named_parameters())
        yield from ((name, buffer) for name, buffer in self.model.named_buffers() if name in persistent)


@torch.no_grad()
def log_probs(model: Any, token_ids: tuple[int, ...], temperature: float = 1.0) -> list[float]:
    """The model's own log-prob of every token, nats; 0 for the first."""
    logits = model(torch.tensor([token_ids]), use_cache=False).logits[0].float() / temperature
    found = logits[:-1].log_softmax(1).gather(1, torch.tensor(token_ids[1:]).unsqueeze(1))
    return [0.0, *found.squeeze(1).tolist()]


def expected(model: Any, document: TrainingSequence, temperature: float = 1.0) -> list[float]:
    """What an engine with the model's weights answers to `score` for one document."""
    found = log_probs(model, document.token_ids, temperature)
    return [value * wanted for value, wanted in zip(found, document.loss_mask, strict=True)]


def largest_error(engine: Any, model: Any, documents: list[TrainingSequence], temperature: float = 1.0) -> float:
    """Between the engine's scores and the model's, nats."""
    return max(
        abs(one - other)
        for scores, document in zip(engine.score(documents, temperature), documents, strict=True)
        for one, other in zip(scores, expected(model, document, temperature), strict=True)
    )


def prompts(count: int) -> list[Prompt]:
    """Of 2 to 14 tokens."""
    lengths = [2 + (5 * i) % 13 for i in range(count)]
    return [
        Prompt(Row(f"row{i}", "math", "addition", {}), tuple(2 + (7 * i + 3 * j) % 35 for j in range(length)))
        for i, length in enumerate(lengths)
    ]


def sequence(rollout: Rollout) -> TrainingSequence:
    """The rollout as a document, its completion in the loss."""
    prompt, completion = rollout.prompt.token_ids, rollout.token_ids
    return TrainingSequence(prompt + completion, (0,) * len(prompt) + (1,) * len(completion))
