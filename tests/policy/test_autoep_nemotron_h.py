"""The preset of `nemotron_h`, given to DeepSpeed's AutoEP alone, computes what transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade import parallel
from tests.policy.expert_models import write_experts
from tests.tiny_models import sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of it; DeepSpeed imported and its groups made."""
    from cascade.policy.deepspeed import _import_deepspeed

    parallel.start()
    _import_deepspeed()
    return write_experts(tmp_path_factory.mktemp("models") / "nemotron_h", "nemotron_h")


def converted(folder: Path, dtype: torch.dtype, **keys: Any) -> Any:
    """The model with its layers replaced by AutoEP, which knows the preset by the model's own type."""
    from deepspeed.module_inject.auto_ep import AutoEP
    from deepspeed.module_inject.auto_ep_config import AutoEPConfig

    from cascade.policy import autoep_nemotron_h

    autoep_nemotron_h.register()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    converter = AutoEP(model, AutoEPConfig(enabled=True, autoep_size=1, **keys))
    converter.replace_moe_layers(converter.ep_parser(), 1, 0)
    return model


IDS = torch.tensor([sequences(1, seed=3)[0].token_ids])


@pytest.mark.parametrize("grouped", (True, False))
def test_outputs_and_gradients_are_those_of_transformers(folder: Path, grouped: bool) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = converted(folder, torch.float32, use_grouped_mm=grouped)
    for each in (plain, model):
        each(IDS).logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, atol=1e-5, rtol=1e-5)
    own, other = (each.model.layers[1].mixer for each in (plain, model))
    assert other.experts.w3.numel() == 0
    pairs = [
        (own.experts.up_proj, other.experts.w1),
        (own.experts.down_proj, other.experts.w2),
        (own.gate.weight, other.router.gate.weight),
        (own.shared_experts.up_proj.weight, other.shared_experts.up_proj.weight),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(theirs.grad, mine.grad, atol=1e-6, rtol=1e-4)


def test_the_router_computes_in_float32_in_a_bf16_model_too(folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).model.layers[1].mixer.gate
    router = converted(folder, torch.bfloat16).model.layers[1].mixer.router
    tokens = torch.randn(200, plain.hidden_dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, weights, chosen = plain(tokens)
    their_weights, their_chosen, counts = router(tokens)
    order, their_order = chosen.argsort(-1), their_chosen.argsort(-1)
    assert torch.equal(chosen.gather(1, order), their_chosen.gather(1, their_order))
    torch.testing.assert_close(weights.gather(1, order), their_weights.gather(1, their_order))
    assert counts.sum() == chosen.numel()


@torch.no_grad()
def test_transformers_still_records_router_logits(folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    seen = [each(IDS, output_router_logits=True).router_logits for each in (converted(folder, torch.float32), plain)]
    assert len(seen[0]) == len(seen[1]) == 2
    for converted_logits, plain_logits in zip(*seen, strict=True):
        torch.testing.assert_close(converted_logits, plain_logits, atol=1e-5, rtol=1e-5)


def test_a_latent_projection_is_refused(folder: Path) -> None:
    from cascade.policy.autoep_nemotron_h import PRESET, PRESET_ADAPTERS

    config = AutoModelForCausalLM.from_pretrained(folder).config
    config.moe_latent_size = 8
    with pytest.raises(ValueError, match="moe_latent_size"):
        PRESET_ADAPTERS["nemotron_h"].validate_compatibility("nemotron_h", PRESET, config)
