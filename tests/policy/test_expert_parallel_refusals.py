"""What expert parallelism cannot be right with is refused in words, and AutoEP is held to what was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from cascade import parallel
from cascade.commands import checked_recipe
from cascade.config import LoraConfig
from cascade.errors import ConfigError, EngineError
from cascade.models.loading import build_model, load_model
from cascade.policy import expert_parallel
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.policy.engine_config import engine_config
from cascade.policy.expert_parallel import check_experts, check_folder, shard_experts
from tests.processes import ROOT
from tests.tiny_models import KEYS, TOKENIZER, policy_config, sft_stage, write_model


@pytest.fixture
def of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if four processes trained."""
    monkeypatch.setattr(parallel, "world_size", lambda: 4)


@pytest.mark.usefixtures("of_four")
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"zero_stage": 3}, "`policy.zero_stage` is 3"),
        ({"zero_stage": 0}, "`policy.zero_stage` is 0"),
        ({"lora": LoraConfig()}, "`policy.lora` is"),
        ({"experts": "batched_mm"}, "`policy.experts` is batched_mm"),
        ({"offload_optimizer": "nvme"}, "`policy.offload_optimizer` is nvme"),
        ({"expert_parallel": 3}, "4 experts in a layer cannot be shared out among 3"),
        ({"expert_parallel": 8}, "4 experts in a layer cannot be shared out among 8"),
    ],
)
def test_refused_before_weights_are_read(model_folder: Any, keys: dict[str, Any], says: str) -> None:
    policy = policy_config("qwen3_moe", **{"expert_parallel": 2, **keys})
    with pytest.raises(EngineError, match=says):
        check_folder(model_folder("qwen3_moe"), policy)


def test_a_number_of_processes_that_is_not_divided_is_refused(model_folder: Any, tmp_path: Path) -> None:
    folder = model_folder("qwen3_moe")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())  # no weights are needed for it
    with pytest.raises(EngineError, match="1 processes cannot be shared out among 2"):
        DeepSpeedPolicy(tmp_path, policy_config("qwen3_moe", expert_parallel=2), sft_stage(), freeze_router=True)


@pytest.mark.usefixtures("of_four")
def test_a_dense_model_is_refused(model_folder: Any) -> None:
    with pytest.raises(EngineError, match="llama has no experts"):
        check_folder(model_folder("llama"), policy_config("llama", expert_parallel=2))


@pytest.mark.usefixtures("of_four")
def test_an_architecture_that_is_not_tested_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("mixtral").save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="experts of mixtral are not known"):
        check_folder(tmp_path, policy_config("mixtral", expert_parallel=2))


@pytest.mark.usefixtures("of_four")
def test_experts_in_a_latent_space_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "nemotron_h", moe_latent_size=8)
    with pytest.raises(EngineError, match="latent space"):
        check_folder(folder, policy_config("nemotron_h", expert_parallel=2))


def test_a_deepspeed_file_of_the_users_own_cannot_share_experts_out_behind_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"expert_parallel": {"enabled": true, "autoep_size": 2}}')
    with pytest.raises(ConfigError, match="sets `expert_parallel`"):
        engine_config(policy_config("qwen3_moe", deepspeed=str(tmp_path / "ds.json")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["policy.zero_stage=3"], ("cannot go with `policy.zero_stage=3`", "ZeRO 1 and 2")),
        (["policy.zero_stage=0"], ("cannot go with `policy.zero_stage=0`",)),
        (["policy.lora.rank=4"], ("cannot go with `policy.lora=",)),
        (["policy.experts=batched_mm"], ("cannot go with `policy.experts=batched_mm`",)),
        (["launch.processes=3", "launch=torchrun"], ("which does not divide 3 processes",)),
        (["model.config.num_experts=5", "launch.processes=2", "launch=torchrun"], ("divide 5 experts in a layer",)),
        (["model.architecture=llama"], ("`model.architecture` is llama", "nemotron_h or qwen3_moe")),
    ],
)
def test_refused_on_any_laptop(words: list[str], says: tuple[str, ...], tmp_path: Path) -> None:
    recipe = [f"recipe={ROOT}/recipes/smoke.yaml", f"run_dir={tmp_path}", "policy.expert_parallel=2", *words]
    with pytest.raises(ConfigError) as caught:
        checked_recipe(recipe)
    assert all(part in str(caught.value) for part in ("`policy.expert_parallel` is 2", *says)), caught.value


class Groups:
    """The part of DeepSpeed's optimiser that is checked."""

    def __init__(self, groups: list[tuple[list[torch.nn.Parameter], bool]]) -> None:
        self.bit16_groups = [parameters for parameters, _ in groups]
        self.is_moe_param_group = [shared for _, shared in groups]


@pytest.fixture
def sharded(model_folder: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A model on one process, its experts AutoEP's; and what became of them."""
    parallel.start()
    policy = policy_config("qwen3_moe")
    from cascade.policy.deepspeed import _import_deepspeed

    _import_deepspeed()
    model = load_model(model_folder("qwen3_moe"), policy)
    # One process shares with itself: everything but the all-to-all is as it is with more.
    monkeypatch.setattr(expert_parallel, "_shares", lambda policy: True)
    experts = shard_experts(model, policy)
    assert experts is not None
    return model, experts


def groups_of(model: Any, experts: Any) -> Groups:
    own = dict(model.named_parameters())
    routed = [parameter for name, parameter in own.items() if experts.names.tensor(name) is not None]
    others = [parameter for name, parameter in own.items() if experts.names.tensor(name) is None]
    return Groups([(others, False), (routed, True)])


def test_what_was_asked_for_passes(sharded: tuple[Any, Any]) -> None:
    model, experts = sharded
    check_experts(experts, model, groups_of(model, experts))


def test_a_layer_is_gathered_when_it_is_asked_for(sharded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, experts = sharded
    gathered: list[str] = []
    gather = expert_parallel.dist.all_gather
    monkeypatch.setattr(expert_parallel.dist, "all_gather", lambda *a, **k: (gathered.append(""), gather(*a, **k)))
    taken = 0
    for name, _ in experts.weights(model):
        taken += ".experts." in name
        assert len(gathered) == taken
    assert taken == 4  # two tensors of two layers


def test_a_layer_that_kept_all_its_experts_is_an_error(sharded: tuple[Any, Any]) -> None:
    model, experts = sharded
    own = model.model.layers[1].mlp.experts
    own.w1 = torch.nn.Parameter(torch.cat([own.w1, own.w1]).detach())
    with pytest.raises(EngineError, match=r"layers\.1\.mlp\.experts\.w1 is"):
        check_experts(experts, model, groups_of(model, experts))


def test_a_layer_that_was_left_alone_is_an_error(sharded: tuple[Any, Any], model_folder: Any) -> None:
    model, experts = sharded
    other = load_model(model_folder("qwen3_moe"), policy_config("qwen3_moe"))
    model.model.layers[0].mlp = other.model.layers[0].mlp
    with pytest.raises(EngineError, match="are unknown"):
        check_experts(experts, model, groups_of(model, experts))


def test_a_router_that_is_trained_against_what_was_asked_is_an_error(sharded: tuple[Any, Any]) -> None:
    model, experts = sharded
    frozen = replace(experts, trainable=experts.trainable - {"model.layers.0.mlp.gate.weight"})
    with pytest.raises(EngineError, match=r"model\.layers\.0\.mlp\.gate\.weight is trained"):
        check_experts(frozen, model, groups_of(model, experts))


def test_experts_among_gradients_of_every_process_are_an_error(sharded: tuple[Any, Any]) -> None:
    model, experts = sharded
    every = Groups([(list(model.parameters()), False)])
    with pytest.raises(EngineError, match="summed over other experts"):
        check_experts(experts, model, every)


def test_a_layer_that_autoep_does_not_find_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.policy.deepspeed import _import_deepspeed

    parallel.start()
    _import_deepspeed()
    from deepspeed.module_inject.auto_ep_presets import registry

    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    model = build_model("qwen3_moe", KEYS["qwen3_moe"], 0, len(TOKENIZER), special)
    first = replace(registry.PRESET_MODELS["qwen3_moe"], moe_layer_pattern=r"model\.layers\.0\.mlp")
    monkeypatch.setitem(registry.PRESET_MODELS, "qwen3_moe", first)
    monkeypatch.setattr(expert_parallel, "_shares", lambda policy: True)
    with pytest.raises(EngineError, match=r"1 of 2 layers were not found, e\.g\. model\.layers\.1\.mlp"):
        shard_experts(model, policy_config("qwen3_moe"))
