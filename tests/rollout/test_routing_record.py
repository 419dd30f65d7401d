"""Rollouts come with the experts that their tokens went to, through padding, shared prompts and interruptions."""

from __future__ import annotations

import base64
import dataclasses
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import PolicyConfig, RolloutConfig
from cascade.errors import EngineError
from cascade.models.published import blank_model
from cascade.models.router_hooks import routed_layers
from cascade.models.routing import TrainingRouting
from cascade.rollout.samples import Sample
from cascade.rollout.served_routing import ServedRouting
from cascade.serving.arguments import served_arguments, served_environment
from cascade.types import Rollout
from tests.rollout.embedded import Engine, flat, prompts
from tests.tiny_models import TOKENIZER, policy_config, write_model

KINDS = ("qwen3_moe", "nemotron_h")
LIMIT = 10


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with an untrained model."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: root / kind if (root / kind).exists() else write_model(root / kind, kind)


def recording(folder: Path, kind: str, **keys: Any) -> Engine:
    made = Engine(policy_config(kind), RolloutConfig(record_routing=True, **keys), TOKENIZER)
    made.load(folder)
    return made


def watched(model: Any) -> tuple[Any, TrainingRouting]:
    return model, TrainingRouting(routed_layers(model), keep_scores=False)


def live_choices(watching: tuple[Any, TrainingRouting], token_ids: tuple[int, ...]) -> torch.Tensor:
    """What a forward pass over one sequence chooses, [T, L, K] sorted."""
    model, routing = watching
    ids = torch.tensor([token_ids])
    with torch.no_grad(), routing.forward_pass(torch.ones_like(ids, dtype=torch.bool), None):
        model(input_ids=ids, use_cache=False)
    assert routing.latest is not None
    return torch.stack([taken for taken in routing.latest.taken if taken is not None], 1).sort(-1).values


def tokens_of(rollout: Rollout) -> tuple[int, ...]:
    return rollout.prompt.token_ids + rollout.token_ids


def record_of(rollout: Rollout) -> torch.Tensor:
    assert rollout.routed_experts is not None
    return rollout.routed_experts.long().sort(-1).values


@pytest.mark.parametrize("samples", [1, 3], ids=["left-padded", "shared-prompts"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_record_is_what_a_forward_pass_over_the_sequence_chooses(
    model_folder: Callable[[str], Path], kind: str, samples: int
) -> None:
    sampler = recording(model_folder(kind), kind, batch_sequences=8)
    model = watched(AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval())
    rollouts = flat(sampler.generate(prompts(5), samples, 1.0, [3, LIMIT, 6, LIMIT, 1], 0))
    assert len({len(rollout.token_ids) for rollout in rollouts}) > 1
    for rollout in rollouts:
        expected = live_choices(model, tokens_of(rollout))[:-1]  # nothing was sampled after the last token
        assert torch.equal(record_of(rollout), expected)


def test_a_record_is_small_and_its_own(model_folder: Callable[[str], Path]) -> None:
    (rollout,) = flat(recording(model_folder("qwen3_moe"), "qwen3_moe").sample(prompts(1), 1, 1.0, LIMIT, 0))
    record = rollout.routed_experts
    assert record is not None
    assert record.dtype == torch.uint8
    assert record.untyped_storage().nbytes() == record.numel()
    assert torch.equal(pickle.loads(pickle.dumps(rollout)).routed_experts, record)


def test_nothing_is_recorded_where_nobody_asked(model_folder: Callable[[str], Path]) -> None:
    sampler = Engine(policy_config("qwen3_moe"), RolloutConfig(), TOKENIZER)
    sampler.load(model_folder("qwen3_moe"))
    assert all(r.routed_experts is None for r in flat(sampler.sample(prompts(2), 2, 1.0, LIMIT, 0)))
    assert all("forward" not in vars(module) for module in sampler.model.modules())


class Changed:
    """Publishes the weights of a model, moved."""

    def __init__(self, model: Any, scale: float) -> None:
        generator = torch.Generator().manual_seed(1)
        moved = {n: p.detach() + scale * torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        self.tensors = {**{n: b for n, b in model.named_buffers() if n in model.state_dict()}, **moved}

    def weights(self) -> Any:
        yield from self.tensors.items()


def unfinished(rollout: Rollout) -> Rollout:
    return dataclasses.replace(rollout, finish_reason="abort")


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_interruption_tokens_keep_the_experts_that_they_were_first_computed_by(
    model_folder: Callable[[str], Path], kind: str
) -> None:
    sampler = recording(model_folder(kind), kind)
    begun = [r for r in flat(sampler.sample(prompts(4), 2, 1.0, 4, 0)) if r.finish_reason == "length"]
    assert begun
    policy: Any = Changed(sampler.model, 0.05)
    sampler.publish(policy, 1)
    done = sampler.extend([unfinished(r) for r in begun], 1.0, [LIMIT] * len(begun), 0)
    new = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval()
    new.load_state_dict(policy.tensors, strict=False)
    watching, recomputed_otherwise = watched(new), 0
    for before, after in zip(begun, done, strict=True):
        kept, now = len(record_of(before)), live_choices(watching, tokens_of(after))[:-1]
        assert len(record_of(after)) == len(tokens_of(after)) - 1
        assert torch.equal(record_of(after)[:kept], record_of(before))
        assert torch.equal(record_of(after)[kept:], now[kept:])
        recomputed_otherwise += int((now[:kept] != record_of(before)).any())
    assert recomputed_otherwise


def test_what_the_environment_wrote_is_recorded_when_the_model_has_read_it(
    model_folder: Callable[[str], Path],
) -> None:
    sampler = recording(model_folder("qwen3_moe"), "qwen3_moe")
    (first,) = flat(sampler.sample(prompts(1), 1, 1.0, 4, 0))
    written = (5, 9, 7)
    answered = dataclasses.replace(
        unfinished(first),
        token_ids=first.token_ids + written,
        sampler_log_probs=first.sampler_log_probs + (0.0,) * 3,
        sampled=(1,) * len(first.token_ids) + (0,) * 3,
    )
    (done,) = sampler.extend([answered], 1.0, [len(answered.token_ids) + 3], 0)
    assert len(record_of(done)) == len(tokens_of(done)) - 1
    assert torch.equal(record_of(done), live_choices(watched(sampler.model), tokens_of(done))[:-1])


def test_a_model_without_experts_cannot_be_recorded(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(EngineError, match="has no experts whose choice can be recorded"):
        recording(model_folder("llama"), "llama")


# vLLM returns [N, layers of the model, K] on GPUs; here what it would return is read.


def npy(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def served(model_folder: Callable[[str], Path]) -> ServedRouting:
    """Of a model with experts in layers 1 and 3 of 4."""
    return ServedRouting(blank_model(model_folder("nemotron_h")))


def test_layers_without_experts_are_left_out_of_what_vllm_returns(served: ServedRouting) -> None:
    array = np.arange(6 * 4 * 2, dtype=np.uint8).reshape(6, 4, 2) % 4
    for sent in (array, npy(array)):
        record = served.record(sent, 7)
        assert record.dtype == torch.uint8
        assert torch.equal(record, torch.from_numpy(array[:, [1, 3]]))


@pytest.mark.parametrize(
    "sent",
    [
        None,
        np.zeros((7, 4, 2), np.uint8),
        np.zeros((6, 3, 2), np.uint8),
        np.zeros((6, 4, 3), np.uint8),
        np.full((6, 4, 2), 4, np.uint8),
        "bm90IGFuIGFycmF5",
    ],
    ids=["nothing", "too-many-tokens", "too-few-layers", "another-k", "an-unknown-expert", "no-array"],
)
def test_what_vllm_cannot_mean_is_an_error(served: ServedRouting, sent: Any) -> None:
    with pytest.raises(EngineError, match="vLLM sent"):
        served.record(sent, 7)


def test_the_first_record_of_a_token_counts_in_requests_too(model_folder: Callable[[str], Path]) -> None:
    rollout = Rollout(prompts(1)[0], 0, (), (), (), "abort")
    sample = Sample(rollout, LIMIT)
    sample.record(torch.zeros(3, 2, 2, dtype=torch.uint8))
    sample.record(torch.ones(5, 2, 2, dtype=torch.uint8))
    sample.add(4, -0.5, 0)
    sample.end("stop")
    record = sample.settled(TOKENIZER).routed_experts
    assert record is not None
    assert record[:, 0, 0].tolist() == [0, 0, 0, 1, 1]


def test_servers_are_started_so_that_they_return_experts() -> None:
    asked = RolloutConfig(engine="vllm_server", record_routing=True)
    words = served_arguments(Path("model"), 1, 64, PolicyConfig(), asked)
    assert "--enable-return-routed-experts" in words
    assert served_environment(0, asked)["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    plain = RolloutConfig(engine="vllm_server")
    assert "--enable-return-routed-experts" not in served_arguments(Path("model"), 1, 64, PolicyConfig(), plain)


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM on GPUs can")
def test_vllm_on_a_cpu_is_refused_before_it_starts(tmp_path: Path) -> None:
    from cascade.rollout.vllm_server import VllmServerEngine

    config = RolloutConfig(engine="vllm_server", record_routing=True)
    with pytest.raises(EngineError, match="on GPUs only"):
        VllmServerEngine(policy_config("qwen3_moe"), config, TOKENIZER, tmp_path)
