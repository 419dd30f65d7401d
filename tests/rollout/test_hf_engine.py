"""The embedded engine samples exactly what it says, whatever is sampled beside it."""

from __future__ import annotations

import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.config import RolloutConfig
from cascade.errors import EngineError
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy
from cascade.rollout.fresh import fresh_rollouts
from cascade.types import TrainingSequence
from tests.rollout.embedded import KINDS, Engine, by_name, engine, flat, prompts
from tests.tiny_models import TOKENIZER, batches, policy_config, sequences, sft_stage, write_model

END = 1


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with an untrained model."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: root / kind if (root / kind).exists() else write_model(root / kind, kind)


@pytest.mark.parametrize("temperature", (1.0, 0.0))
@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_does_not_depend_on_its_batch(
    model_folder: Callable[[str], Path], kind: str, temperature: float
) -> None:
    asked, samples = prompts(), 1 if temperature == 0 else 3
    sampler = engine(model_folder(kind), kind)
    reference = by_name(sampler.sample(asked, samples, temperature, 12, 5))
    assert len(reference) == len(asked) * samples
    for batch_sequences in (1, 3):
        sampler.batch_sequences = batch_sequences
        found = by_name(sampler.sample(asked, samples, temperature, 12, 5))
        assert {name: r.token_ids for name, r in found.items()} == {n: r.token_ids for n, r in reference.items()}
        for name, rollout in found.items():
            assert rollout.sampler_log_probs == pytest.approx(reference[name].sampler_log_probs, abs=1e-5)
    shuffled = random.Random(1).sample(asked, len(asked))[:5]  # another order, and other company
    sampler.batch_sequences = 64
    found = sampler.sample(shuffled, samples, temperature, 12, 5)
    assert [group[0].prompt for group in found] == shuffled
    assert [[rollout.index for rollout in group] for group in found] == [list(range(samples))] * len(shuffled)
    assert {n: r.token_ids for n, r in by_name(found).items()} == {n: reference[n].token_ids for n in by_name(found)}


def test_every_prompt_has_its_own_limit_and_is_not_changed_by_it(model_folder: Callable[[str], Path]) -> None:
    sampler, asked = engine(model_folder("qwen3_moe"), "qwen3_moe"), prompts()
    whole = sampler.sample(asked, 3, 1.0, 12, 5)
    limits = [1 + i % 5 for i in range(len(asked))]
    for long, short, limit in zip(whole, sampler.generate(asked, 3, 1.0, limits, 5), limits, strict=True):
        assert [rollout.token_ids for rollout in short] == [rollout.token_ids[:limit] for rollout in long]
        assert all((r.finish_reason == "stop") == (r.token_ids[-1] == END) for r in short)


def test_another_seed_or_sample_draws_something_else(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe")
    groups = sampler.sample(prompts(), 4, 1.0, 12, 5)
    assert all(len({rollout.token_ids for rollout in group}) > 1 for group in groups)
    others = sampler.sample(prompts(), 4, 1.0, 12, 6)
    assert [r.token_ids for r in flat(groups)] != [r.token_ids for r in flat(others)]


@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("kind", KINDS)
def test_the_samplers_log_probs_are_the_trainers(
    model_folder: Callable[[str], Path], kind: str, temperature: float
) -> None:
    rollouts = flat(engine(model_folder(kind), kind).sample(prompts(), 2, temperature, 12, 5))
    documents = [
        TrainingSequence(
            r.prompt.token_ids + r.token_ids,
            (0,) * len(r.prompt.token_ids) + (1,) * len(r.token_ids),
            (0.0,) * len(r.prompt.token_ids) + r.sampler_log_probs,
        )
        for r in rollouts
    ]
    config = policy_config(kind)
    policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
    for batch in batches(documents, config):
        with torch.no_grad():
            log_probs, _ = policy.log_probs(batch, temperature)
        torch.testing.assert_close(log_probs, batch.sampler_log_probs, atol=1e-5, rtol=0)
    policy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_takes_the_likeliest_token(model_folder: Callable[[str], Path], kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval()
    for rollout in flat(engine(model_folder(kind), kind).sample(prompts(4), 1, 0.0, 10, 5)):
        tokens = list(rollout.prompt.token_ids)
        for token, log_prob in zip(rollout.token_ids, rollout.sampler_log_probs, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            assert token == logits.argmax().item()
            assert log_prob == pytest.approx(logits.log_softmax(0).max().item(), abs=1e-5)
            tokens.append(token)


def test_a_rollout_ends_with_one_stop_token_or_at_the_limit(model_folder: Callable[[str], Path]) -> None:
    rollouts = flat(engine(model_folder("qwen3_moe"), "qwen3_moe").sample(prompts(), 20, 1.0, 12, 5))
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert len(rollout.sampler_log_probs) == len(rollout.token_ids)
        assert END not in rollout.token_ids[:-1]
        if rollout.finish_reason == "stop":
            assert rollout.token_ids[-1] == END
        else:
            assert rollout.token_ids[-1] != END
            assert len(rollout.token_ids) == 12
        assert "<|end|>" not in rollout.text
        assert rollout.policy_version == 0


def test_sampling_settings_of_the_folder_do_not_act(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Qwen and others ship a repetition penalty and a top-k, which `generate` would take up in silence."""
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, top_k=2, min_new_tokens=9, temperature=0.1)
    model.save_pretrained(tmp_path)
    for temperature in (1.0, 0.0):
        plain = engine(model_folder("llama"), "llama").sample(prompts(), 3, temperature, 12, 5)
        set_up = engine(tmp_path, "llama").sample(prompts(), 3, temperature, 12, 5)
        assert flat(set_up) == flat(plain)


def test_every_stop_token_of_the_folder_ends_an_answer(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model.generation_config.eos_token_id = [END, *range(6, 20)]
    model.save_pretrained(tmp_path)
    rollouts = flat(engine(tmp_path, "llama").sample(prompts(), 4, 1.0, 12, 5))
    stops = {END, *range(6, 20)}
    assert all((r.token_ids[-1] in stops) == (r.finish_reason == "stop") for r in rollouts)
    assert not any(token in stops for r in rollouts for token in r.token_ids[:-1])
    assert {r.token_ids[-1] for r in rollouts if r.finish_reason == "stop"} - {END}


def test_sampling_frequencies_are_those_of_the_softmax(tmp_path: Path) -> None:
    """Chi-square of the first token: 8,000 samples of one prompt, at two temperatures."""
    folder = write_model(tmp_path / "model", "llama", num_hidden_layers=1)
    sampler, prompt = engine(folder, "llama", 2000), prompts(2)[1]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt.token_ids])).logits[0, -1]
    for temperature in (1.0, 0.7):
        count = 8000
        seen = Counter(r.token_ids[0] for r in sampler.generate([prompt], count, temperature, [1], 5)[0])
        expected = (logits / temperature).softmax(0).double() * count
        observed = torch.tensor([float(seen[token]) for token in range(len(expected))], dtype=torch.float64)
        common = expected >= 5
        pooled = [(float(observed[~common].sum()), float(expected[~common].sum()))] if (~common).any() else []
        cells = [*zip(observed[common].tolist(), expected[common].tolist(), strict=True), *pooled]
        statistic = sum((o - e) ** 2 / e for o, e in cells if e > 0)
        freedom = len(cells) - 1
        assert freedom > 10
        assert abs(statistic - freedom) < 4.0 * (2 * freedom) ** 0.5  # mean and four standard deviations


@pytest.mark.parametrize("kind", KINDS)
def test_published_weights_sample_what_the_export_of_them_samples(
    model_folder: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    config = policy_config(kind, zero_stage=3)
    sampler = engine(model_folder(kind), kind)
    before = flat(sampler.sample(prompts(), 2, 1.0, 12, 5))
    policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=False)
    for step in range(3):
        for batch in batches(sequences(7, seed=step), config):
            log_probs, _ = policy.log_probs(batch)
            policy.backward(-(log_probs * batch.token_weight).sum())
        policy.step(3e-2)
    sampler.publish(policy, 3)
    export_policy(policy, tmp_path / "model", TOKENIZER, {"identity": "x", "stage": "s", "step": 3})
    policy.close()
    after = flat(sampler.sample(prompts(), 2, 1.0, 12, 5))
    fresh = flat(engine(tmp_path / "model", kind).sample(prompts(), 2, 1.0, 12, 5))
    assert sampler.version == 3
    assert {rollout.policy_version for rollout in after} == {3}
    assert [(r.token_ids, r.sampler_log_probs) for r in after] == [(r.token_ids, r.sampler_log_probs) for r in fresh]
    assert [r.token_ids for r in after] != [r.token_ids for r in before]


class Published:
    """Stands for a policy whose model is not the engine's."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()


@pytest.mark.parametrize("kind", KINDS)
def test_publishing_too_little_or_too_much_is_an_error(model_folder: Callable[[str], Path], kind: str) -> None:
    sampler = engine(model_folder(kind), kind)
    whole = {name: tensor.clone() for name, tensor in sampler.model.state_dict().items()}
    policy: Any = Published(whole)
    sampler.publish(policy, 1)
    some = next(name for name in whole if "layers.0" in name)
    policy = Published({name: tensor for name, tensor in whole.items() if name != some})
    with pytest.raises(EngineError, match=f"did not publish {some}"):
        sampler.publish(policy, 2)
    policy = Published({**whole, "model.layers.9.weight": torch.zeros(1)})
    with pytest.raises(EngineError, match=r"publishes .*layers.9.weight, which the rollout"):
        sampler.publish(policy, 2)
    assert sampler.version == 1
    with pytest.raises(EngineError, match="last load or publish failed"):  # a mixture of two versions
        sampler.sample(prompts(), 1, 1.0, 3, 5)
    with pytest.raises(EngineError, match="last load or publish failed"):
        sampler.score(sequences(2), 1.0)
    policy = Published(whole)
    sampler.publish(policy, 3)
    assert {r.policy_version for r in flat(sampler.sample(prompts(), 1, 1.0, 3, 5))} == {3}


def test_a_tensor_of_another_shape_is_refused(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    whole = {name: tensor.clone() for name, tensor in sampler.model.state_dict().items()}
    policy: Any = Published({**whole, "model.norm.weight": torch.zeros(1)})  # would broadcast
    with pytest.raises(EngineError, match=r"model.norm.weight"):
        sampler.publish(policy, 1)


def test_bf16_policies_have_bf16_samplers(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("qwen3_moe"), "qwen3_moe", dtype="bf16")
    assert sampler.model.dtype == torch.bfloat16
    rollouts = flat(sampler.sample(prompts(), 2, 1.0, 12, 5))
    assert all(value <= 0 for rollout in rollouts for value in rollout.sampler_log_probs)


def test_publishing_says_how_much_it_moved(model_folder: Callable[[str], Path]) -> None:
    sampler = engine(model_folder("llama"), "llama")
    whole = {name: tensor.clone() for name, tensor in sampler.model.named_parameters()}
    policy: Any = Published(whole)
    metrics = sampler.publish(policy, 1)
    assert metrics["publish/mib"] == pytest.approx(sum(4 * tensor.numel() for tensor in whole.values()) / 2**20)
    assert 0 < metrics["publish/seconds"] < 60


@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_log_probs_of_sampling(
    model_folder: Callable[[str], Path], kind: str, temperature: float
) -> None:
    sampler = engine(model_folder(kind), kind)
    rollouts = flat(sampler.sample(prompts(), 2, temperature, 12, 5))
    documents = [
        TrainingSequence(r.prompt.token_ids + r.token_ids, (0,) * len(r.prompt.token_ids) + (1,) * len(r.token_ids))
        for r in rollouts
    ]
    for rollout, scores in zip(rollouts, sampler.score(documents, temperature), strict=True):
        before = len(rollout.prompt.token_ids)
        assert scores[:before] == [0.0] * before
        assert scores[before:] == pytest.approx(rollout.sampler_log_probs, abs=1e-5)
    assert sampler.score([], temperature) == []


def calls(sampler: Engine) -> dict[str, Callable[[], object]]:
    """Everything that needs weights."""
    policy: Any = Published({})
    rollouts = fresh_rollouts(prompts(1), 1)
    return {
        "version": lambda: sampler.version,
        "publish": lambda: sampler.publish(policy, 1),
        "generate": lambda: sampler.generate(prompts(1), 1, 1.0, [3], 5),
        "extend": lambda: sampler.extend(rollouts, 1.0, [3], 5),
        "score": lambda: sampler.score(sequences(1), 1.0),
        "pause": sampler.pause,
        "resume": sampler.resume,
        "abort": sampler.abort,
    }


def test_without_weights_there_is_nothing_to_do(model_folder: Callable[[str], Path]) -> None:
    sampler = Engine(policy_config("llama"), RolloutConfig(), TOKENIZER)
    sampler.close()
    for when in ("before load", "after close"):
        for name, call in calls(sampler).items():
            with pytest.raises(EngineError, match="no weights"):
                pytest.fail(f"{name} {when} returned {call()}")
        sampler.load(model_folder("llama"))
        assert sampler.version == 0
        sampler.pause()
        sampler.close()
        sampler.close()
    sampler.load(model_folder("llama"))
    assert len(flat(sampler.sample(prompts(), 1, 1.0, 3, 5))) == 9  # nor is it paused still


def test_loading_frees_the_model_before_it(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cascade.rollout.hf as module

    sampler = engine(model_folder("llama"), "llama")
    policy: Any = Published({name: tensor.clone() for name, tensor in sampler.model.named_parameters()})
    sampler.publish(policy, 4)
    sampler.sample(prompts(), 2, 1.0, 3, 5)
    sampler.score(sequences(2), 1.0)
    first = weakref.ref(sampler.model)
    alive: list[bool] = []
    load = module.load_model

    def watched(*arguments: Any) -> Any:
        alive.append(first() is not None)
        return load(*arguments)

    monkeypatch.setattr(module, "load_model", watched)
    sampler.load(model_folder("qwen3_moe"))
    assert alive == [False]
    assert sampler.version == 0
    fresh = engine(model_folder("qwen3_moe"), "qwen3_moe")
    assert flat(sampler.sample(prompts(), 2, 1.0, 12, 5)) == flat(fresh.sample(prompts(), 2, 1.0, 12, 5))
    second = weakref.ref(sampler.model)
    sampler.close()
    assert second() is None


def test_a_failed_load_leaves_no_weights(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    sampler = engine(model_folder("llama"), "llama")
    with pytest.raises(OSError, match="nowhere"):
        sampler.load(tmp_path / "nowhere")
    for name in ("publish", "generate", "score"):
        with pytest.raises(EngineError, match="last load or publish failed"):
            calls(sampler)[name]()
    sampler.load(model_folder("llama"))
    assert sampler.sample(prompts(1), 1, 1.0, 3, 5)
