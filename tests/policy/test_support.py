"""What an architecture cannot have is said, with the reason, and nothing that it can have is."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from cascade.policy.support import unsupported
from tests.tiny_models import KEYS

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
RECURRENT = {**TINY, "num_key_value_heads": 4}


@pytest.mark.parametrize(
    ("kind", "keys", "cannot"),
    [
        ("llama", KEYS["llama"], set()),
        ("qwen3_moe", KEYS["qwen3_moe"], {"expert_bias_update_rate"}),
        ("nemotron_h", KEYS["nemotron_h"], set()),
        ("mixtral", {**TINY, "num_key_value_heads": 4}, {"policy.expert_parallel", "expert_bias_update_rate"}),
        ("recurrent_gemma", {**RECURRENT, "lru_width": 32}, {"policy.packing", "policy.sequence_parallel"}),
    ],
)
def test_what_cannot_be_had_is_named(tmp_path: Path, kind: str, keys: dict, cannot: set[str]) -> None:
    AutoConfig.for_model(kind, **keys).save_pretrained(tmp_path)
    said = unsupported(tmp_path)
    assert {line.partition(":")[0] for line in said} == cannot
    assert all(len(line.partition(": ")[2]) > 20 for line in said)
