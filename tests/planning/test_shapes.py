"""Parameters by kind: against published counts, against arithmetic by hand, and for every family's own structure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cascade.compose import load_recipe
from cascade.config import ModelConfig
from cascade.errors import ConfigError
from cascade.locations import conf_dir
from cascade.models.loading import check_declared
from cascade.planning.shapes import ModelShape, model_shape
from cascade.recipe_checks import check_recipe
from tests.tiny_models import write_model

# Parameters that the makers or the hub's safetensors headers state, exactly.
PUBLISHED = {
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "qwen2_5_7b": 7_615_616_512,
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_2_1b": 1_235_814_400,
    "mixtral_8x7b": 46_702_792_704,
    "smollm2_135m": 134_515_008,
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "nemotron_nano_9b_v2": 8_888_227_328,
}
# Billions of parameters for one token: with tables of embeddings, and without those that are looked up.
ACTIVE = {
    "nemotron_3_nano_30b_a3b": (3.6, 3.2),  # technical report, table 1
    "qwen3_30b_a3b": (3.4, 3.0),  # model card: 3.3 of 30.5, 29.9 of them outside embeddings
    "qwen3_235b_a22b": (22.2, 21.6),  # model card: 22
    "gpt_oss_20b": (4.2, 3.6),  # model card, table 1: 3.6, unembedding counted and embedding not
    "gpt_oss_120b": (5.7, 5.1),  # model card, table 1: 5.1
    "mixtral_8x7b": (12.9, 12.7),  # announcement: 12.9
    "deepseek_v3": (37.6, 36.6),  # technical report: 37
}
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}


def declared(name: str) -> ModelConfig:
    """A model of conf/model."""
    return ModelConfig(**yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text()))


def shape(architecture: str, **keys: object) -> ModelShape:
    """Of a model that is nowhere."""
    return model_shape(ModelConfig(path="not/there", architecture=architecture, config=keys))


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    assert model_shape(declared(name)).total == PUBLISHED[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name: str) -> None:
    found = model_shape(declared(name))
    assert (round(found.active / 1e9, 1), round(found.active_without_embeddings / 1e9, 1)) == ACTIVE[name]


def test_a_published_checkpoint_also_counts_selection_biases() -> None:
    deepseek, nemotron = model_shape(declared("deepseek_v3")), model_shape(declared("nemotron_3_nano_30b_a3b"))
    assert deepseek.total + deepseek.selection_biases == 671_026_419_200
    assert nemotron.total + nemotron.selection_biases == 31_577_940_288


def test_nemotron_3_nano_by_kind_is_arithmetic_by_hand() -> None:
    found = model_shape(declared("nemotron_3_nano_30b_a3b"))
    inner, groups, conv = 64 * 64, 8 * 128, 64 * 64 + 2 * 8 * 128
    assert found.kinds == {
        "embeddings": 2 * 131072 * 2688,
        "attention": 6 * (2688 * (32 + 2 * 2) * 128 + 32 * 128 * 2688),
        "mamba": 23 * (2688 * (2 * inner + 2 * groups + 64) + conv * 4 + conv + 3 * 64 + inner * 2688),
        "routed_experts": 23 * 128 * 2 * 2688 * 1856,
        "shared_experts": 23 * 2 * 2688 * 3712,
        "router": 23 * 128 * 2688,
        "mlp": 0,
        "norms": 52 * 2688 + 23 * inner + 2688,
        "other": 0,
    }
    assert [len(found.of_kind(kind)) for kind in ("mamba", "moe", "attention", "mlp")] == [23, 23, 6, 0]
    layer = found.of_kind("moe")[0]
    assert (layer.experts, layer.chosen, layer.expert_width, layer.shared_width, layer.gated) == (
        128, 6, 1856, 3712, False,
    )  # fmt: skip


def test_kinds_of_every_family_add_up_and_none_is_left_over() -> None:
    gated = 3 * 64 * 24
    families = {
        "qwen2": ({**SMALL, "num_hidden_layers": 2, "intermediate_size": 96}, {"mlp": 2 * 3 * 64 * 96}),
        "phi3": ({**SMALL, "num_hidden_layers": 2, "intermediate_size": 96, "pad_token_id": 0}, {"mlp": 36864}),
        "gemma3_text": ({**SMALL, "num_hidden_layers": 2, "intermediate_size": 96, "head_dim": 16}, {"mlp": 36864}),
        "granite": ({**SMALL, "num_hidden_layers": 2, "intermediate_size": 96}, {"mlp": 36864}),
        "mistral": ({**SMALL, "num_hidden_layers": 2, "intermediate_size": 96, "head_dim": 16}, {"mlp": 36864}),
        "mixtral": (
            {**SMALL, "num_hidden_layers": 2, "intermediate_size": 24, "num_local_experts": 4},
            {"routed_experts": 2 * 4 * gated, "router": 2 * 4 * 64},
        ),
        "qwen2_moe": (
            {**SMALL, **ROUTED, "num_hidden_layers": 2, "num_experts": 4, "shared_expert_intermediate_size": 40},
            {"routed_experts": 2 * 4 * gated, "router": 2 * 4 * 64, "shared_experts": 2 * (3 * 64 * 40 + 64)},
        ),
        "olmoe": (
            {**SMALL, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24},
            {"routed_experts": 2 * 4 * gated, "router": 2 * 4 * 64},
        ),
        "glm4_moe": (
            {**SMALL, **ROUTED, "head_dim": 16, "num_hidden_layers": 3, "n_routed_experts": 4, "n_shared_experts": 1,
             "first_k_dense_replace": 1, "intermediate_size": 96, "n_group": 1, "topk_group": 1},
            {"routed_experts": 2 * 4 * gated, "shared_experts": 2 * gated, "mlp": 3 * 64 * 96},
        ),
        "jamba": (
            {**SMALL, "num_hidden_layers": 4, "intermediate_size": 24, "num_experts": 4, "expert_layer_period": 2,
             "expert_layer_offset": 1, "attn_layer_period": 4, "attn_layer_offset": 2, "mamba_dt_rank": 4},
            {"routed_experts": 2 * 4 * gated, "mlp": 2 * gated, "router": 2 * 4 * 64},
        ),
        "lfm2": (
            {**SMALL, "num_hidden_layers": 2, "intermediate_size": 96, "layer_types": ["conv", "full_attention"]},
            {},
        ),
        "falcon_h1": (
            {**SMALL, "num_hidden_layers": 2, "intermediate_size": 96, "head_dim": 16, "mamba_d_ssm": 64,
             "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
            {"mlp": 36864},
        ),
        "gpt2": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 32}, {}),
    }  # fmt: skip
    for architecture, (keys, known) in families.items():
        found = shape(architecture, **keys)
        assert found.kinds["other"] == 0, (architecture, found.kinds)
        assert {kind: found.kinds[kind] for kind in known} == known, architecture
        assert found.kinds["attention"] > 0, architecture
        assert (found.kinds["mamba"] > 0) == (architecture in {"jamba", "lfm2", "falcon_h1"}), architecture


def test_idle_experts_are_the_only_parameters_that_are_not_active() -> None:
    found = shape("qwen3_moe", **SMALL, **ROUTED, num_hidden_layers=2, num_experts=8, head_dim=16)
    assert found.total - found.active == 2 * 6 * 3 * 64 * 24
    assert found.active - found.active_without_embeddings == 128 * 64  # untied: the LM head stays
    tied = shape("llama", **SMALL, num_hidden_layers=1, intermediate_size=96, tie_word_embeddings=True)
    assert tied.tied
    assert tied.active == tied.active_without_embeddings == tied.total


def test_widths_of_latent_attention_and_of_a_windowed_layer() -> None:
    latent = model_shape(declared("deepseek_v3")).of_kind("attention")[0]
    assert (latent.heads, latent.head_dim, latent.value_dim, latent.cache_width) == (128, 192, 128, 576)
    windows = [layer.window for layer in model_shape(declared("gpt_oss_20b")).of_kind("attention")]
    assert windows[:4] == [128, 0, 128, 0]


def test_a_folder_tells_its_own_shape(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", "nemotron_h")
    found = model_shape(ModelConfig(path=str(folder)))
    assert found.architecture == "nemotron_h"
    assert [layer.kind for layer in found.layers] == ["mamba", "moe", "attention", "moe"]


def test_a_hub_id_is_known_where_conf_declares_it_and_refused_elsewhere() -> None:
    assert model_shape(ModelConfig(path="Qwen/Qwen3-8B")).total == PUBLISHED["qwen3_8b"]
    with pytest.raises(ConfigError, match="nobody/nothing is not known here"):
        model_shape(ModelConfig(path="nobody/nothing"))


def test_a_recipe_may_name_a_model_and_declare_its_shape_but_needs_one_of_the_two() -> None:
    recipe, origins = load_recipe("quickstart", ["model=qwen3_8b"])
    assert (recipe.model.path, recipe.model.architecture) == ("Qwen/Qwen3-8B", "qwen3")
    check_recipe(recipe, origins)
    recipe, origins = load_recipe("quickstart", ["~model.architecture", "~model.config"])
    with pytest.raises(ConfigError, match="needs `path` or `architecture`"):
        check_recipe(recipe, origins)


def test_a_folder_that_is_not_what_was_declared_is_refused(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "tiny", "llama"))
    check_declared(ModelConfig(path=folder, architecture="llama", config={"hidden_size": 32}), folder)
    with pytest.raises(ConfigError, match=r"hidden_size` declares 64, but .* has 32"):
        check_declared(ModelConfig(path=folder, architecture="llama", config={"hidden_size": 64}), folder)
    with pytest.raises(ConfigError, match="of the architecture llama"):
        check_declared(ModelConfig(path=folder, architecture="qwen3", config={}), folder)


def test_an_architecture_without_a_causal_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="no causal language model"):
        shape("t5")
