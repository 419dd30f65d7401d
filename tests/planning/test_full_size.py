"""The 30B architectures as transformers builds them: whole on the meta device, and few layers of them in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from cascade.config import PolicyConfig
from cascade.locations import conf_dir
from cascade.models.loading import config_of_keys, kernels
from cascade.planning.measuring import blank, measure
from cascade.planning.parameter_kinds import KINDS, kinds_of

FEW = {  # of a published model: few layers, a small vocabulary, every width as it is
    "nemotron_3_nano_30b_a3b": {"hybrid_override_pattern": "ME*", "vocab_size": 1024},
    "qwen3_30b_a3b": {"num_hidden_layers": 1, "vocab_size": 1024},
    "qwen3_8b": {"num_hidden_layers": 2, "vocab_size": 1024},
    "llama_3_1_8b": {"num_hidden_layers": 2, "vocab_size": 1024},
}


def keys_of(name: str) -> tuple[str, dict[str, Any]]:
    """Architecture and config of a file of conf/model."""
    declared = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    return declared["architecture"], declared["config"]


@pytest.mark.parametrize("name", ["nemotron_3_nano_30b_a3b", "qwen3_30b_a3b", "qwen3_8b", "llama_3_1_8b"])
def test_at_full_size_every_parameter_has_a_kind_and_takes_no_memory(name: str) -> None:
    model = blank(config_of_keys(*keys_of(name)))
    kinds = kinds_of(model)
    parameters = dict(model.named_parameters())
    assert set(kinds) == set(parameters)
    assert set(kinds.values()) <= set(KINDS) - {"other"}
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}
    shape = measure(name, model)
    assert shape.total == sum(parameter.numel() for parameter in parameters.values()) == sum(shape.kinds.values())
    inside = sum(layer.parameters for layer in shape.layers)
    assert inside == shape.total - shape.kinds["embeddings"] - shape.kinds["norms"]


def test_qwen3_30b_by_kind_is_arithmetic_by_hand() -> None:
    shape = measure("qwen3", blank(config_of_keys(*keys_of("qwen3_30b_a3b"))))
    assert dict(shape.kinds) == {
        "embeddings": 2 * 151936 * 2048,
        "attention": 48 * (2048 * (32 + 2 * 4) * 128 + 32 * 128 * 2048),
        "mamba": 0,
        "routed_experts": 48 * 128 * 3 * 2048 * 768,
        "shared_experts": 0,
        "router": 48 * 128 * 2048,
        "mlp": 0,
        "norms": 48 * (2 * 2048 + 2 * 128) + 2048,
        "other": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_at_real_width_a_pass_forward_and_backward_reaches_every_parameter(name: str) -> None:
    architecture, keys = keys_of(name)
    config = config_of_keys(architecture, {**keys, **FEW[name]})
    chosen = kernels(PolicyConfig(), config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **chosen).train()
    assert measure(name, model).total == sum(parameter.numel() for parameter in model.parameters())
    reached: dict[str, float] = {}
    for path, parameter in model.named_parameters():
        # a gradient goes as soon as it is there: all of them would double the memory
        parameter.register_post_accumulate_grad_hook(lambda part, path=path: _note(reached, path, part))
    ids = torch.arange(64).remainder(config.vocab_size).unsqueeze(0)
    positions = torch.arange(64).unsqueeze(0)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
    assert abs(float(loss.detach()) - torch.log(torch.tensor(1024.0))) < 1  # as good as chance
    loss.backward()
    assert set(reached) == {path for path, _ in model.named_parameters()}
    assert all(0 < norm < float("inf") for norm in reached.values()), reached


def _note(reached: dict[str, float], path: str, parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    reached[path] = float(parameter.grad.norm())
    parameter.grad = None
