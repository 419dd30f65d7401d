"""What sequence parallelism is made of, in one process: rows, masks, what flash attention is told, and refusals."""

from __future__ import annotations

import itertools
import types
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cascade import parallel
from cascade.commands import checked_recipe
from cascade.errors import ConfigError, EngineError
from cascade.models.loading import build_model
from cascade.policy.mamba_heads import share_mamba_heads
from cascade.policy.sharded_rows import ShardedRow
from cascade.policy.sliceable_models import mamba_mixers, require_sliceable
from cascade.policy.ulysses_attention import ulysses_attention
from tests.tiny_models import KEYS

POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]])


@pytest.fixture(scope="module")
def group() -> dist.ProcessGroup:
    parallel.start()
    return parallel.sharing_group(1)


class OfTwo:
    """A group of two, of which this is one."""

    def __init__(self, rank: int) -> None:
        self.number = rank

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return self.number


def row_of(rank: int) -> ShardedRow:
    two: Any = OfTwo(rank)
    return ShardedRow.of(POSITIONS, two, "sdpa")


def test_slices_are_equally_long_and_padding_is_a_document_of_its_own() -> None:
    assert row_of(0).own(POSITIONS).tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert row_of(1).own(POSITIONS).tolist() == [[1, 0, 1, 0], [4, 5, 6, 0]]
    assert row_of(1).position_ids[:, -1].tolist() == [0, 0]
    assert not row_of(0).block_mask(None)[1, 0, 7, :7].any()


def test_a_token_sees_its_document_up_to_itself_and_its_window() -> None:
    mask, narrow = row_of(0).block_mask(None)[0, 0], row_of(0).block_mask(2)[0, 0]
    assert mask.long().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert not narrow[2, 0]
    assert narrow[2, 1]


def flash_of_documents(layer: Any, query: Any, key: Any, value: Any, mask: Any, **told: Any) -> Any:
    """What variable-length flash attention computes, one document at a time. [1, heads, tokens, dimensions]."""
    assert mask is None
    assert layer.config._attn_implementation == "flash_attention_2"
    assert torch.equal(told["cu_seq_lens_q"], told["cu_seq_lens_k"])
    assert told["max_length_q"] == told["max_length_k"] == 7
    bounds = told["cu_seq_lens_q"].tolist()
    outputs = []
    for start, end in itertools.pairwise(bounds):
        part = slice(start, end)
        heads = (tensor[:, :, part] for tensor in (query, key, value))
        own = torch.nn.functional.scaled_dot_product_attention(
            *heads, is_causal=True, scale=told["scaling"], enable_gqa=True
        )
        outputs.append(own)
    return torch.cat(outputs, 2).transpose(1, 2), None


def test_flash_attention_is_told_the_documents_of_all_rows(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", flash_of_documents)
    layer: Any = types.SimpleNamespace(training=True, layer_idx=0, config=types.SimpleNamespace())
    query, key, value = (torch.randn(2, heads, 7, 8) for heads in (4, 2, 2))
    found, wanted = (
        ulysses_attention(
            layer, query, key, value, None, scaling=0.3, sharded_row=ShardedRow.of(POSITIONS, group, name)
        )
        for name in ("flash_attention_2", "sdpa")
    )
    torch.testing.assert_close(found[0], wanted[0])


@pytest.mark.parametrize("more", [{"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(4)}, {"sharded_row": None}])
def test_a_layer_that_wants_what_would_be_dropped_is_refused(group: dist.ProcessGroup, more: dict[str, Any]) -> None:
    layer: Any = types.SimpleNamespace(training=True, layer_idx=0, config=types.SimpleNamespace())
    heads = torch.randn(2, 4, 7, 8)
    with pytest.raises(EngineError, match=r"policy\.sequence_parallel"):
        ulysses_attention(
            layer, heads, heads, heads, None, **{"sharded_row": ShardedRow.of(POSITIONS, group, "sdpa"), **more}
        )


def test_a_share_of_a_mamba_layer_runs_the_layers_own_forward_pass(group: dist.ProcessGroup) -> None:
    model = build_model("nemotron_h", KEYS["nemotron_h"], 0, 40, {"pad_token_id": 0}).train()
    mixer = next(iter(mamba_mixers(model).values()))
    hidden, row = torch.randn(2, 7, 32), ShardedRow.of(POSITIONS, group, "sdpa")
    wanted = mixer(hidden)
    share_mamba_heads(model, 1)
    torch.testing.assert_close(mixer(hidden, sharded_row=row), wanted)  # the path that CUDA kernels take with `seq_idx`


REFUSED = {
    "five_processes": ("llama", {}, 2, 5, "does not divide 5 processes"),
    "heads": ("llama", {}, 8, 8, "does not divide the model's 4 attention heads"),
    "mamba_groups": ("nemotron_h", {}, 4, 4, "does not divide the 4 heads in 2 groups"),
    "other_recurrence": ("bamba", {"attn_layer_indices": [1], "mamba_n_heads": 4}, 2, 2, "mixes tokens by Conv1d"),
    "sinks": ("gpt_oss", {"num_hidden_layers": 1, "num_local_experts": 2}, 2, 2, "attention sinks"),
    "rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        2,
        2,
        "dynamic rotary embeddings",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_cut_is_refused_when_the_engine_is_built(name: str) -> None:
    kind, keys, size, processes, said = REFUSED[name]
    with torch.device("meta"):
        config = AutoConfig.for_model(kind, **{**KEYS.get(kind, KEYS["llama"]), **keys, "vocab_size": 40})
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(EngineError, match=said):
        require_sliceable(model, size, processes)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "nemotron_h", "gpt2"])
def test_known_models_are_not_refused(kind: str) -> None:
    with torch.device("meta"):
        keys = KEYS.get(kind, {})
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**keys, "vocab_size": 40}))
    require_sliceable(model, 2, 4)


FOUR = "launch=torchrun launch.processes=4 stages.sft.batch_size=8 stages.if_rl.prompts_per_step=8"
WRONG = {
    f"{FOUR} policy.sequence_parallel=3": "`policy.sequence_parallel` is 3",
    f"{FOUR} policy.sequence_parallel=2 stages.sft.router_aux_loss_coef=0.1": "balances whole documents",
    f"{FOUR} policy.sequence_parallel=2 stages.sft.batch_size=7": "which 2 groups of 2 processes",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_recipe_is_refused_before_anything_is_computed(words: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[words]):
        checked_recipe(["recipe=smoke", *words.split()])
