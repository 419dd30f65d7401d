"""Published names are those of a folder that transformers itself saves, with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import cascade.models.published as published
from cascade.errors import EngineError
from cascade.models.published import blank_model, folder_weights, published_weights, same_architecture
from tests.tiny_models import write_model

KINDS = ("qwen3_moe", "llama", "nemotron_h")


def own_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Under transformers' names, as a policy yields them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
    persistent = set(model.state_dict())
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_bytes_are_those_of_save_pretrained(tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / "model", kind)
    saved = load_file(folder / "model.safetensors")
    if kind == "llama":  # tied: the folder leaves the head out
        saved["lm_head.weight"] = saved["model.embed_tokens.weight"]
    found = list(published_weights(blank_model(folder), own_weights(folder)))
    assert len({name for name, _ in found}) == len(found)
    assert {name for name, _ in found} == set(saved)
    for name, tensor in found:
        assert torch.equal(tensor, saved[name]), name
    assert any(".experts.3." in name for name in saved) == (kind != "llama")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_yields_what_a_policy_publishes(tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / "model", kind)
    blank = blank_model(folder)
    found = dict(folder_weights(blank, folder))
    expected = dict(published_weights(blank, own_weights(folder)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_only_one_tensor_is_asked_for_at_a_time(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3_moe")
    asked: list[str] = []

    def recorded() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in own_weights(folder):
            asked.append(name)
            yield name, tensor

    expert_layers = {f"model.layers.{layer}.mlp.experts." for layer in (0, 1)}
    for name, tensor in published_weights(blank_model(folder), recorded()):
        source = next((layer for layer in expert_layers if name.startswith(layer)), name)
        assert asked[-1].startswith(source), (name, asked[-1])
        assert tensor.device.type == "cpu"


def test_a_blank_model_takes_no_memory(tmp_path: Path) -> None:
    blank = blank_model(write_model(tmp_path / "model", "llama"))
    assert all(tensor.is_meta for tensor in blank.state_dict().values())


def test_a_name_that_the_model_lacks_is_an_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "llama")
    with pytest.raises(EngineError, match=r"has no model\.layers\.9\.weight"):
        list(published_weights(blank_model(folder), iter([("model.layers.9.weight", torch.zeros(1))])))


def test_a_tensor_that_comes_twice_or_never_is_an_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "llama")
    blank, weights = blank_model(folder), list(own_weights(folder))
    with pytest.raises(EngineError, match="came twice"):
        list(published_weights(blank, iter([*weights[:3], weights[1]])))
    with pytest.raises(EngineError, match=r"1 tensors .* e\.g\. model\.norm\.weight"):
        list(published_weights(blank, iter([pair for pair in weights if pair[0] != "model.norm.weight"])))


def test_a_model_published_from_several_tensors_at_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(model: object, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"fused": torch.cat([tensor.flatten() for tensor in weights.values()])}

    folder = write_model(tmp_path / "model", "llama")
    monkeypatch.setattr(published, "revert_weight_conversion", fused)
    with pytest.raises(EngineError, match="several tensors at once"):
        blank_model(folder)


def test_checkpoints_of_one_architecture_are_told_from_others(tmp_path: Path) -> None:
    configs = [
        AutoConfig.from_pretrained(write_model(tmp_path / name, "llama", seed, **keys))
        for name, seed, keys in (("a", 0, {}), ("b", 1, {}), ("c", 0, {"num_hidden_layers": 1}))
    ]
    assert same_architecture(configs[0], configs[1])
    assert not same_architecture(configs[0], configs[2])
