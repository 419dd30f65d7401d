"""An exported folder is what transformers, vLLM and other users expect."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from cascade.atomic import is_complete
from cascade.models.stop_tokens import stop_ids
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.export import export_policy, save_folder
from tests.tiny_models import TOKENIZER, policy_config, sft_stage

CARD = {"identity": "abc", "stage": "sft", "step": 1}


@pytest.fixture(scope="module")
def exported(
    model_folder: Callable[[str], Path], steps: Any, train: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], tuple[Path, dict[str, torch.Tensor]]]:
    """(kind, ZeRO stage) -> the folder of a policy trained for a step, and the policy's weights."""
    done: dict[tuple[str, int], tuple[Path, dict[str, torch.Tensor]]] = {}

    def get(kind: str, stage: int) -> tuple[Path, dict[str, torch.Tensor]]:
        if (kind, stage) not in done:
            config = policy_config(kind, zero_stage=stage)
            policy = DeepSpeedPolicy(model_folder(kind), config, sft_stage(), freeze_router=True)
            train(policy, steps(kind, 1))
            weights = {name: tensor.detach().clone() for name, tensor in policy.weights()}
            folder = tmp_path_factory.mktemp("exported") / "model"
            export_policy(policy, folder, TOKENIZER, CARD)
            policy.close()
            done[kind, stage] = folder, weights
        return done[kind, stage]

    return get


@pytest.mark.parametrize("stage", (0, 1, 2, 3))
@pytest.mark.parametrize("kind", ("qwen3_moe", "nemotron_h", "llama"))
def test_transformers_reads_back_what_was_trained(exported: Any, kind: str, stage: int) -> None:
    folder, weights = exported(kind, stage)
    assert is_complete(folder)
    loading: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model, info = loading
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    found = model.state_dict()
    assert set(found) - set(weights) == ({"lm_head.weight"} if kind == "llama" else set())
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("stage", (0, 3))
def test_experts_have_their_published_names(exported: Any, stage: int) -> None:
    names = load_file(exported("qwen3_moe", stage)[0] / "model.safetensors").keys()
    for expert in range(4):
        for part in ("gate", "up", "down"):
            assert f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight" in names
    assert not [name for name in names if "gate_up_proj" in name]
    nemotron = load_file(exported("nemotron_h", stage)[0] / "model.safetensors").keys()
    assert any(name.endswith("mixer.experts.3.up_proj.weight") for name in nemotron)
    assert all(name.startswith(("backbone.", "lm_head.")) for name in nemotron)


def test_weights_are_as_readable_as_every_other_file(exported: Any) -> None:
    folder, _ = exported("qwen3_moe", 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {modes["config.json"]}


def test_tokenizer_template_card_and_stop_token_are_there(exported: Any) -> None:
    folder, _ = exported("qwen3_moe", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TOKENIZER.chat_template
    assert (folder / "chat_template.jinja").is_file()
    assert tokenizer.decode(tokenizer.encode("12+3=15")) == "12+3=15"
    assert json.loads((folder / "cascade.json").read_text()) == CARD
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == TOKENIZER.eos_token_id == 1
    assert generation.pad_token_id == TOKENIZER.pad_token_id == 0


def test_a_base_models_other_stop_tokens_survive(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model.generation_config.eos_token_id = [5, 1]
    save_folder(model, tmp_path / "once", TOKENIZER, CARD, None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "once")
    assert stop_ids(again, TOKENIZER) == [1, 5]
    save_folder(again, tmp_path / "twice", TOKENIZER, CARD, None)
    assert GenerationConfig.from_pretrained(tmp_path / "twice").eos_token_id == [1, 5]


def test_an_export_replaces_an_older_one_whole(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    save_folder(model, folder, TOKENIZER, CARD, None)
    (folder / "left_over.txt").write_text("old")
    save_folder(model, folder, TOKENIZER, CARD, None)
    assert not (folder / "left_over.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
