"""The three names of expert weights are one bijection, and a name that is not matched is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cascade.errors import EngineError
from cascade.models.expert_names import ExpertNames, join, published_slots, split, whole_weights
from cascade.models.published import blank_model, published_weights
from tests.tiny_models import write_model

KINDS = ("qwen3_moe", "nemotron_h")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> a folder with a tiny model of it."""
    root = tmp_path_factory.mktemp("models")

    def get(kind: str) -> Path:
        return root / kind if (root / kind).exists() else write_model(root / kind, kind)

    return get


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_becomes_transformers_tensors_and_comes_back(folder: Any, kind: str) -> None:
    own, blank = plain(folder(kind)).state_dict(), blank_model(folder(kind))
    saved = load_file(folder(kind) / "model.safetensors")
    whole = dict(whole_weights(blank, saved.items()))
    assert whole.keys() == own.keys()
    assert all(torch.equal(whole[name], own[name]) for name in own)
    again = dict(published_weights(blank, iter(whole.items())))
    assert again.keys() == saved.keys()
    assert all(torch.equal(again[name], saved[name]) for name in saved)


@pytest.mark.parametrize("size", (1, 2, 4))
@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_all_processes_are_the_whole(folder: Any, kind: str, size: int) -> None:
    model = plain(folder(kind))
    own = model.state_dict()
    names = ExpertNames(model)
    assert names.tensors
    for tensor in names.tensors:
        shares = [split(tensor, own[tensor.whole], rank, size) for rank in range(size)]
        assert {part.shape[0] for share in shares for part in share.values()} == {4 // size}
        assert torch.equal(torch.cat([join(tensor, share) for share in shares]), own[tensor.whole])
        assert all(names.whole_name(part) == tensor.whole and names.tensor(part) is tensor for part in tensor.parts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_every_expert_has_one_published_name(folder: Any, kind: str) -> None:
    saved = load_file(folder(kind) / "model.safetensors")
    own = plain(folder(kind)).state_dict()
    slots = published_slots(blank_model(folder(kind)))
    assert set(slots) == {name for name in saved if ".experts." in name}
    assert len(set(slots.values())) == len(slots)
    for name, slot in slots.items():
        assert torch.equal(own[slot.whole][slot.expert].chunk(slot.parts)[slot.part], saved[name]), name


def test_a_dense_model_keeps_its_names(folder: Any) -> None:
    model = plain(folder("llama"))
    names = ExpertNames(model)
    assert not names.tensors
    assert all(names.whole_name(name) == name == names.sharded_name(name) for name in model.state_dict())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda weights: {**weights, "model.layers.7.mlp.experts.0.up_proj.weight": torch.zeros(1)}, "no published"),
        (lambda weights: dict(list(weights.items())[:-1]), "never came"),
    ],
)
def test_published_names_that_do_not_match_are_errors(folder: Any, spoil: Any, says: str) -> None:
    saved = load_file(folder("qwen3_moe") / "model.safetensors")
    with pytest.raises(EngineError, match=says):
        list(whole_weights(blank_model(folder("qwen3_moe")), spoil(saved).items()))


def test_a_published_name_that_comes_twice_is_an_error(folder: Any) -> None:
    saved = list(load_file(folder("qwen3_moe") / "model.safetensors").items())
    with pytest.raises(EngineError, match="came twice"):
        list(whole_weights(blank_model(folder("qwen3_moe")), [saved[0], *saved]))


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_names_that_do_not_match_are_errors(folder: Any, kind: str) -> None:
    model = plain(folder(kind))
    names = ExpertNames(model)
    routed = {tensor.whole for tensor in names.tensors}
    sharded = [names.sharded_name(name) for name in model.state_dict() if name not in routed]
    sharded += [part for tensor in names.tensors for part in tensor.parts]
    names.check_sharded(sharded)
    block = names.tensors[0].parts[0].rpartition(".")[0]
    for spoilt, says in (
        ([*sharded, f"{block}.w4"], "are unknown"),
        ([*sharded, f"{block}.w1"], "come twice"),
        (sharded[:-1], "are missing"),
        ([name for name in sharded if "router" not in name], "are missing"),
    ):
        with pytest.raises(EngineError, match=says):
            names.check_sharded(spoilt)
    with pytest.raises(EngineError, match="no name of transformers"):
        names.whole_name(f"{block}.w4")


def test_experts_of_another_build_are_refused(folder: Any) -> None:
    model = plain(folder("qwen3_moe"))
    model.model.layers[0].mlp.experts.extra = torch.nn.Parameter(torch.zeros(4, 2, 2))
    with pytest.raises(EngineError, match="gate_up_proj, down_proj, extra"):
        ExpertNames(model)
