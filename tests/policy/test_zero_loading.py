"""Under ZeRO-3 a checkpoint goes straight into shards: the same tensors, and the same refusals, as when it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, core_model_loading
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from cascade.errors import EngineError
from cascade.models.loading import load_model
from cascade.policy import zero
from cascade.policy.deepspeed import DeepSpeedPolicy, loaded
from tests.processes import ROOT, torchrun
from tests.tiny_models import policy_config, sft_stage, write_model


@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h", "llama"))
def test_shards_and_buffers_are_those_of_the_model_loaded_whole(
    model_folder: Callable[[str], Path], kind: str, dtype: str
) -> None:
    whole = load_model(model_folder(kind), policy_config(kind, dtype=dtype))
    config = policy_config(kind, zero_stage=3, dtype=dtype)
    model = loaded(lambda: load_model(model_folder(kind), config), config)
    parameters = dict(model.named_parameters())
    assert set(parameters) == {name for name, _ in whole.named_parameters()}
    for name, expected in whole.named_parameters():
        shard = parameters[name]
        assert shard.numel() == 0  # what is left of the whole
        assert shard.ds_shape == expected.shape
        assert torch.equal(shard.ds_tensor.view(expected.shape), expected)
    buffers = dict(model.named_buffers())
    assert set(buffers) == {name for name, _ in whole.named_buffers()}
    for name, expected in whole.named_buffers():
        assert buffers[name].dtype == expected.dtype
        assert torch.equal(buffers[name], expected), name
    assert model.generation_config.to_dict() == whole.generation_config.to_dict()


def test_nothing_of_it_stays_behind(model_folder: Callable[[str], Path]) -> None:
    """A copy that one process loads afterwards, for a teacher or for rollouts, is whole."""
    config = policy_config("llama", zero_stage=3)
    place = core_model_loading.set_param_for_module
    loaded(lambda: load_model(model_folder("llama"), config), config)
    assert core_model_loading.set_param_for_module is place
    assert not is_deepspeed_zero3_enabled()
    model = load_model(model_folder("llama"), config)
    assert all(parameter.numel() for parameter in model.parameters())


def changed(folder: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of a model's folder with other tensors."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"


@pytest.mark.parametrize("stage", (1, 3))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing keys, e.g. model.norm.weight"),
        (lambda t: t.update({"model.more.weight": torch.ones(2)}), "1 unexpected keys, e.g. model.more.weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "1 mismatched keys.*model.norm.weight"),
        (lambda t: t.pop(EXPERT), "experts"),
    ],
    ids=("missing", "unexpected", "mismatched", "an_expert_missing"),
)
def test_a_tensor_too_few_or_too_many_is_an_error(
    model_folder: Callable[[str], Path], tmp_path: Path, stage: int, change: Any, message: str
) -> None:
    folder = changed(model_folder("qwen3_moe"), tmp_path / "broken", change)
    with pytest.raises(EngineError, match=message):
        DeepSpeedPolicy(folder, policy_config("qwen3_moe", zero_stage=stage), sft_stage(), freeze_router=True)


def test_tied_tensors_that_differ_are_an_error(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers would compare two empty shards, find them equal and tie them."""

    def untie(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    folder = changed(model_folder("llama"), tmp_path / "untied", untie)
    with pytest.raises(EngineError, match=r"ties lm_head.weight to model.embed_tokens.weight but holds different"):
        DeepSpeedPolicy(folder, policy_config("llama", zero_stage=3), sft_stage(), freeze_router=False)


def test_tied_tensors_that_are_there_twice_are_tied(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def twice(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    folder = changed(model_folder("llama"), tmp_path / "twice", twice)
    config = policy_config("llama", zero_stage=3)
    model = loaded(lambda: load_model(folder, config), config)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_transformers_that_loads_in_another_way_is_refused(model_folder: Callable[[str], Path]) -> None:
    config = policy_config("llama", zero_stage=3)
    with pytest.raises(EngineError, match="placed no tensor where ZeRO-3 could cut it"):
        loaded(lambda: AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_folder("llama"))), config)


def test_weight_decay_is_on_matrices_whether_cut_or_not(tmp_path: Path) -> None:
    """A shard of a matrix looks like an empty vector."""
    folder = write_model(tmp_path / "llama", "llama")
    sizes = {}
    for stage in (0, 3):
        policy = DeepSpeedPolicy(
            folder, policy_config("llama", zero_stage=stage), sft_stage(weight_decay=0.1), freeze_router=False
        )
        sizes[stage] = [group["weight_decay"] for group in policy.engine.optimizer.param_groups]
        decayed = policy.engine.optimizer.fp16_groups[0] if stage == 3 else policy.engine.optimizer.param_groups[0]
        held = decayed if stage == 3 else decayed["params"]
        sizes[stage] += [sum(getattr(p, "ds_numel", p.numel()) for p in held)]
        policy.close()
    assert sizes[0] == sizes[3]


def test_a_leaf_without_a_gradient_of_its_input_is_an_error(tmp_path: Path) -> None:
    """DeepSpeed would reduce gradients that are not there yet: the block would stay as it is, in silence."""
    folder = write_model(tmp_path / "experts_first", "nemotron_h", hybrid_override_pattern="E*")
    policy = DeepSpeedPolicy(folder, policy_config("nemotron_h", zero_stage=3), sft_stage(), freeze_router=False)
    assert [block.name for block in policy.leaves] == ["model.layers.0.mixer"]
    block = policy.leaves[0].module
    zero._require_input_gradient(block, (torch.ones(1, requires_grad=True),))
    with pytest.raises(EngineError, match="No positional input of NemotronHMoE needs a gradient"):
        zero._require_input_gradient(block, (torch.ones(1),))
    with torch.no_grad():
        zero._require_input_gradient(block, (torch.ones(1),))
    policy.close()


@pytest.mark.slow
def test_a_process_holds_its_share_and_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Of 117 M parameters in fp32, in two processes, beside the same model loaded whole."""
    keys = {"hidden_size": 768, "num_attention_heads": 8, "head_dim": 64, "num_hidden_layers": 4}
    folder = write_model(tmp_path / "model", "qwen3_moe", num_experts=16, moe_intermediate_size=768, **keys)
    grown = {}
    for way in ("whole", "shards"):
        torchrun(2, str(ROOT / "tests/policy/zero_memory.py"), str(folder), str(tmp_path / way), way)
        grown[way] = json.loads((tmp_path / way).read_text())
    print(grown)
    model, largest = grown["shards"]["model"], grown["shards"]["largest"]
    assert all(process["peak"] > model for process in grown["whole"]["processes"])
    for process in grown["shards"]["processes"]:
        assert process["left"] < 1.1 * model / 2
        assert process["peak"] < 1.1 * (model / 2 + 2 * largest)  # the tensor and what it is made of
