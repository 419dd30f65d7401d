"""A reward model is transformers' own classifier: the same backbone, the same token, one seeded head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cascade.data.pairs import rewarded
from cascade.errors import EngineError
from cascade.models.reward import HEAD, RewardHead, load_reward_model, require_reward_head
from cascade.teachers.reward import LocalRewardModel
from tests.tiny_models import policy_config, write_model

LENGTHS = (3, 11, 7, 20, 5)


def documents(pad_id: int) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    return [rewarded((2 + torch.randint(0, 30, (n,), generator=generator)).tolist(), pad_id) for n in LENGTHS]


@pytest.fixture(scope="module", params=["qwen3_moe", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("parent") / "model", request.param)


@pytest.mark.parametrize("pad_id", [0, 1])  # 1 is the end-of-turn token too
@pytest.mark.parametrize("side", ["right", "left"])
def test_rewards_are_those_of_transformers_classifier_on_padded_rows(folder: Path, pad_id: int, side: str) -> None:
    config = policy_config("llama", rows_per_micro_batch=2)
    model = load_reward_model(folder, config, pad_id, seed=5).eval()
    model.save_pretrained(folder.parent / f"saved_{pad_id}_{side}")
    ours = LocalRewardModel(folder.parent / f"saved_{pad_id}_{side}", config, pad_id).score(documents(pad_id))
    rows = [list(document.token_ids) for document in documents(pad_id)]
    fill = [[pad_id] * (max(LENGTHS) - len(row)) for row in rows]
    padded = [row + pad if side == "right" else pad + row for row, pad in zip(rows, fill, strict=True)]
    ids = torch.tensor(padded)
    real = torch.tensor([[int(i < len(row)) for i in range(max(LENGTHS))] for row in rows])
    mask = real if side == "right" else real.flip(1)
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
    torch.testing.assert_close(torch.tensor(ours), theirs, atol=2e-5, rtol=0)
    assert theirs.std() > 0.05


def test_neither_the_other_documents_nor_the_padding_change_a_reward(folder: Path) -> None:
    config = policy_config("llama", rows_per_micro_batch=5)
    load_reward_model(folder, config, 0, seed=5).save_pretrained(folder.parent / "whole")
    model = LocalRewardModel(folder.parent / "whole", config, 0)
    alone = [model.score([document])[0] for document in documents(0)]
    assert model.score(documents(0)) == pytest.approx(alone, abs=1e-5)
    assert model.score([]) == []


def test_the_backbone_is_the_parents_and_the_head_follows_from_the_seed(folder: Path) -> None:
    config = policy_config("llama")
    torch.manual_seed(1)
    model = load_reward_model(folder, config, 0, seed=5)
    torch.manual_seed(2)
    again, other = load_reward_model(folder, config, 0, seed=5), load_reward_model(folder, config, 0, seed=6)
    parent = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).base_model.state_dict()
    mine = model.base_model.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in parent.items())
    assert torch.equal(model.score.weight, again.score.weight)
    assert not torch.equal(model.score.weight, other.score.weight)
    assert model.score.weight.std().item() == pytest.approx(33**-0.5, rel=0.35)  # of 32 numbers
    assert (model.config.num_labels, model.config.pad_token_id, model.config.id2label) == (1, 0, {0: "reward"})


def test_bf16_is_asked_for_and_had(folder: Path) -> None:
    model = load_reward_model(folder, policy_config("llama", dtype="bf16"), 0, seed=5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_batch_without_a_document_touches_every_parameter(folder: Path) -> None:
    model = load_reward_model(folder, policy_config("llama"), 0, seed=5)
    ids = torch.zeros(2, 2, dtype=torch.int64)
    rewards = RewardHead(model)(ids, torch.arange(2).expand(2, 2), torch.zeros(2, 2))
    assert rewards.tolist() == [0.0, 0.0]
    rewards.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_an_architecture_without_a_classifier_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "nemotron_h")
    for refused in (require_reward_head, lambda f: load_reward_model(f, policy_config("nemotron_h"), 0, seed=1)):
        with pytest.raises(EngineError, match="no reward model of the architecture nemotron_h"):
            refused(folder)


def test_a_language_model_is_not_taken_for_a_finished_reward_model(folder: Path) -> None:
    with pytest.raises(EngineError, match=rf"missing keys, e.g. {HEAD}"):
        LocalRewardModel(folder, policy_config("llama"), 0)


def test_a_folder_that_lacks_part_of_the_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    load_reward_model(folder, policy_config("llama"), 0, seed=5).save_pretrained(broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if "input_layernorm" in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(EngineError, match="missing keys"):
        load_reward_model(broken, policy_config("llama"), 0, seed=5)
