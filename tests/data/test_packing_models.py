"""Real models give a packed document the logits it has alone, or packing is refused for them."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from cascade.data.packing import pack
from cascade.types import TrainingSequence
from tests.models.tiny import VOCABULARY, llama, nemotron_h, qwen3_moe

LENGTHS = (23, 17, 9, 9, 5, 1, 1)


def build(config, attention):
    torch.manual_seed(0)
    # A wide initialisation makes attention sharp, so that a leak between documents is far above rounding.
    config.initializer_range = 0.2
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()


@torch.no_grad()
def largest_difference(config, attention, *, one_per_row, rows_per_batch=2, row_tokens=32, flatten=False):
    """Largest |logit| difference between packed rows and documents alone, and the number of documents seen."""
    model = build(config, attention)
    generator = torch.Generator().manual_seed(1)
    sequences = []
    for length in LENGTHS:
        tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        sequences.append(TrainingSequence(tuple(tokens), (0, *[1] * (length - 1))))
    batches = pack(
        sequences,
        [1.0] * len(sequences),
        row_tokens=row_tokens,
        rows_per_batch=rows_per_batch,
        ranks=1,
        rank=0,
        pad_id=0,
        one_per_row=one_per_row,
    )
    difference, seen = 0.0, 0
    for batch in batches:
        shape = (1, -1) if flatten else batch.input_ids.shape
        inputs = {"input_ids": batch.input_ids.reshape(shape), "position_ids": batch.position_ids.reshape(shape)}
        packed = model(**inputs, use_cache=False).logits.reshape(*batch.input_ids.shape, -1)
        for index in sorted(set(batch.sequence_index.flatten().tolist()) - {-1}):
            alone = model(input_ids=torch.tensor([sequences[index].token_ids]), use_cache=False).logits[0]
            difference = max(difference, float((packed[batch.sequence_index == index] - alone).abs().max()))
            seen += 1
    assert any(bool((batch.sequence_index == -1).any()) for batch in batches), "no padding tail was tested"
    assert one_per_row or any(batch.input_ids.shape[0] > 1 for batch in batches)
    return difference, seen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", [llama, qwen3_moe])
def test_attention_stays_inside_documents_by_position_ids_alone(config, attention):
    difference, seen = largest_difference(config(), attention, one_per_row=False, rows_per_batch=3)
    assert seen == len(LENGTHS)
    assert difference < 1e-5


@pytest.mark.parametrize("config", [llama, qwen3_moe])
def test_rows_laid_end_to_end_equal_rows_side_by_side(config):
    assert largest_difference(config(), "sdpa", one_per_row=False, rows_per_batch=3, flatten=True)[0] < 1e-5


def test_flash_attention_of_transformers_sees_documents_in_one_row_only():
    positions = torch.arange(6).repeat(2, 2)
    assert not _is_packed_sequence(positions, batch_size=2)
    assert _is_packed_sequence(positions.reshape(1, -1), batch_size=1)


@pytest.mark.parametrize("config", [llama, qwen3_moe])
def test_one_document_a_row_equals_the_document_alone(config):
    assert largest_difference(config(), "sdpa", one_per_row=True, rows_per_batch=3)[0] < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "broken", [{"use_cache": True}, {"use_cache": False, "attention_mask": torch.ones(1, 12).long()}]
)
def test_a_cache_or_an_attention_mask_makes_documents_leak(broken):
    model = build(llama(), "sdpa").train()
    tokens = torch.arange(12)[None]
    positions = torch.arange(6).repeat(2)[None]
    right = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    wrong = model(input_ids=tokens, position_ids=positions, **broken).logits
    assert float((right[:, :6] - wrong[:, :6]).abs().max()) < 1e-5
    assert float((right[:, 6:] - wrong[:, 6:]).abs().max()) > 1e-2


@pytest.mark.parametrize("config", [llama, qwen3_moe, nemotron_h])
def test_a_micro_batch_without_documents_runs_forward_and_backward(config):
    batches = pack(
        [TrainingSequence((1, 2, 3), (0, 1, 1))],
        [1.0],
        row_tokens=32,
        rows_per_batch=2,
        ranks=2,
        rank=1,
        pad_id=0,
        one_per_row=True,
    )
    model = build(config(), "sdpa").train()
    logits = model(input_ids=batches[0].input_ids, position_ids=batches[0].position_ids, use_cache=False).logits
    (logits.sum() * 0).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_mamba_layers_are_exact_with_one_document_a_row(attention):
    difference, seen = largest_difference(nemotron_h(), attention, one_per_row=True, rows_per_batch=3)
    assert seen == len(LENGTHS)
    assert difference < 1e-5


def test_mamba_layers_leak_between_packed_documents():
    assert largest_difference(nemotron_h(), "sdpa", one_per_row=False)[0] > 1e-2
