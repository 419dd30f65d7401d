"""Blocks of experts are found by what they own, in any architecture, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cascade.errors import EngineError
from cascade.models.moe_blocks import moe_blocks

COMMON: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 64}


def blank(architecture: str, **keys: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**{**COMMON, **keys}))


@pytest.mark.parametrize(
    ("architecture", "keys", "blocks", "experts"),
    [
        ("qwen3_moe", {}, ["model.layers.0.mlp", "model.layers.1.mlp"], 128),
        ("mixtral", {}, ["model.layers.0.mlp", "model.layers.1.mlp"], 8),
        ("olmoe", {}, ["model.layers.0.mlp", "model.layers.1.mlp"], 64),
        ("gpt_oss", {}, ["model.layers.0.mlp", "model.layers.1.mlp"], 128),
        ("deepseek_v3", {"first_k_dense_replace": 1}, ["model.layers.1.mlp"], 256),
        ("nemotron_h", {"hybrid_override_pattern": "M*E"}, ["model.layers.2.mixer"], 8),
        ("llama", {}, [], 0),
        ("lfm2", {}, [], 0),
        ("nemotron_h", {"hybrid_override_pattern": "M*-"}, [], 0),
    ],
)
def test_found_in(architecture: str, keys: dict[str, Any], blocks: list[str], experts: int) -> None:
    found = moe_blocks(blank(architecture, **keys))
    assert [block.name for block in found] == blocks
    for block in found:
        assert block.num_experts == experts
        assert block.experts is block.module.get_submodule("experts")
        assert not dict(block.router.named_parameters()).keys() & dict(block.experts.named_parameters()).keys()


class ListOfExperts(nn.Module):
    """Experts that are modules, and a router that is a plain linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = nn.Linear(4, 3)
        self.those = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)) for _ in range(3))


def test_found_where_experts_are_modules() -> None:
    (block,) = moe_blocks(nn.ModuleDict({"layer": ListOfExperts(), "head": nn.Linear(4, 3)}))
    assert (block.name, block.router_name, block.experts_name) == ("layer", "layer.choose", "layer.those")
    assert block.num_experts == 3


def test_experts_that_are_not_found_are_an_error() -> None:
    model = blank("llama")
    model.config.num_experts = 8
    with pytest.raises(EngineError, match="LlamaForCausalLM has experts, but no module of it owns experts and a"):
        moe_blocks(model)
