"""Operations counted by formula are those that torch counts while the model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cascade.config import PolicyConfig
from cascade.models.loading import is_moe
from cascade.planning.flops import (
    Documents,
    alike,
    block_flops,
    decoding_flops,
    forward_flops,
    head_flops,
    scan_flops,
    training_flops,
)
from cascade.planning.measuring import shape_of
from cascade.planning.shapes import LayerShape, ModelShape
from tests.tiny_models import KEYS

ROWS, TOKENS, VOCABULARY = 2, 32, 64


def model_and_shape(kind: str) -> tuple[Any, ModelShape]:
    config = CONFIG_MAPPING[kind](**KEYS[kind], vocab_size=VOCABULARY)
    config._attn_implementation = "eager"  # whose products of scores and values are counted on a CPU
    chosen = {"experts_implementation": "eager"} if is_moe(config) else {}  # grouped products are not counted
    return AutoModelForCausalLM.from_config(config, **chosen), shape_of(kind, config)


def counted(model: Any, *, backward: bool) -> dict[str, int]:
    """Operations by torch's own count: products with weights, and products of activations."""
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    found = {str(name).removeprefix("aten."): count for name, count in counter.get_flop_counts()["Global"].items()}
    return {"weights": found.get("mm", 0) + found.get("addmm", 0), "others": found.get("bmm", 0)}


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "nemotron_h"])
def test_products_with_weights_are_those_that_torch_counts(kind: str) -> None:
    model, shape = model_and_shape(kind)
    documents = Documents(((float(TOKENS), float(ROWS)),))
    ours = sum(block_flops(layer, documents).matmul for layer in shape.layers)
    ours += head_flops(shape, ROWS * TOKENS)
    assert ours == pytest.approx(counted(model, backward=False)["weights"], rel=0.03 if kind == "nemotron_h" else 0.001)


def test_a_backward_pass_costs_two_forward_passes() -> None:
    model, shape = model_and_shape("llama")
    documents = Documents(((float(TOKENS), float(ROWS)),))
    ours = training_flops(shape, documents, float(ROWS * TOKENS), PolicyConfig())
    head_again = head_flops(shape, ROWS * TOKENS)  # made twice by the chunked head, once by the model as it is
    weights = sum(value for name, value in ours.items() if name != "scores") - head_again
    theirs = counted(model, backward=True)
    assert weights == pytest.approx(theirs["weights"], rel=0.02)
    assert 2 * ours["scores"] == pytest.approx(theirs["others"], rel=0.02)  # torch counts the whole square


def test_checkpointing_runs_blocks_once_more_and_the_head_as_often() -> None:
    _, shape = model_and_shape("llama")
    documents = Documents(((100.0, 1.0),))
    plain = training_flops(shape, documents, 10.0, PolicyConfig())
    again = training_flops(shape, documents, 10.0, PolicyConfig(activation_checkpointing=True))
    assert again["mlp"] == pytest.approx(4 / 3 * plain["mlp"])
    assert again["scores"] == pytest.approx(4 / 3 * plain["scores"])
    assert again["lm_head"] == plain["lm_head"]


def test_documents_attend_to_themselves_alone_and_windows_look_no_further() -> None:
    one, two = Documents(((100.0, 1.0),)), Documents(((50.0, 2.0),))
    assert one.tokens == two.tokens
    assert one.pairs() == 2 * two.pairs() == 100 * 100 / 2
    assert two.pairs(window=50) == two.pairs()
    assert one.pairs(window=10) == 10 * 100 - 10 * 10 / 2


def test_the_head_meets_the_tokens_of_the_loss_only() -> None:
    _, shape = model_and_shape("qwen3_moe")
    documents = Documents(((100.0, 1.0),))
    with_all, with_one = forward_flops(shape, documents, 100.0), forward_flops(shape, documents, 1.0)
    assert with_all - with_one == pytest.approx(99 * 2 * VOCABULARY * shape.hidden)


def test_the_scan_of_a_chunk_is_counted_as_its_products() -> None:
    """C B^T of a chunk (causal half), its product with X, states in and states out, all written out."""
    layer = LayerShape("mamba", 0, 0, 0, heads=4, head_dim=16, groups=2, state=8, chunk=32)
    chunk, heads, width, groups, state = 32, 4, 16, 2, 8
    products = groups * chunk * chunk * state + heads * chunk * chunk * width  # halves of 2 x ...
    products += 2 * 2 * heads * chunk * state * width
    assert scan_flops(layer) * chunk == products


def test_a_decoded_token_costs_what_a_token_costs() -> None:
    _, shape = model_and_shape("llama")
    ours = decoding_flops(shape, [50.0])
    blocks = sum(2.0 * layer.active for layer in shape.layers)
    scores = sum(4.0 * 50 * layer.heads * layer.head_dim for layer in shape.of_kind("attention"))
    assert ours == pytest.approx(blocks + scores + head_flops(shape, 1))


def test_alike_blocks_are_counted_once_with_their_number() -> None:
    _, shape = model_and_shape("nemotron_h")
    assert sum(count for _, count in alike(shape)) == len(shape.layers)
    assert {replace(layer, layer=0) for layer in shape.layers} == {layer for layer, _ in alike(shape)}
