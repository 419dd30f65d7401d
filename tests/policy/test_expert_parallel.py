"""Experts shared over processes train, publish, save and export what one process does without sharing them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.policy.expert_models import EXPERTS, KINDS, OneProcess, train_alone, write_experts
from tests.processes import ROOT, torchrun
from tests.tiny_models import TOKENIZER, sequences
from tests.vllm_engine import largest_error, needs_vllm, vllm_engine

RECOMPUTED = ',experts="eager",activation_checkpointing=true'
TWO = [
    ("qwen3_moe_zero1", "qwen3_moe", 2, "zero_stage=1,expert_parallel=2" + RECOMPUTED),
    ("qwen3_moe_zero2", "qwen3_moe", 2, "zero_stage=2,expert_parallel=2"),
    ("nemotron_h_zero1", "nemotron_h", 2, "zero_stage=1,expert_parallel=2"),
    ("nemotron_h_zero2", "nemotron_h", 2, "zero_stage=2,expert_parallel=2,train_router=true" + RECOMPUTED),
]
FOUR = [
    (f"{kind}_{share}of4_zero{stage}", kind, share, f"zero_stage={stage},expert_parallel={share}")
    for kind in KINDS
    for share in (2, 4)
    for stage in (1, 2)
]
FOUR.append(("qwen3_moe_4of4_in_slices", "qwen3_moe", 4, "zero_stage=2,expert_parallel=4,sequence_parallel=2"))
IN_SLICES = "expert_parallel=2,sequence_parallel=2"
MORE = [
    ("qwen3_moe_offloaded", "qwen3_moe", 2, 'zero_stage=1,expert_parallel=2,offload_optimizer="cpu"'),
    ("nemotron_h_offloaded", "nemotron_h", 2, 'zero_stage=2,expert_parallel=2,offload_optimizer="cpu"'),
    ("qwen3_moe_in_slices", "qwen3_moe", 2, f"zero_stage=2,{IN_SLICES}"),
    ("nemotron_h_in_slices", "nemotron_h", 2, f"zero_stage=1,{IN_SLICES}"),
]
LAUNCHES = {"two": TWO, "more": MORE, "four": FOUR}
CASES = [
    pytest.param(launch, *case, id=case[0], marks=() if launch == "two" else pytest.mark.slow)
    for launch, cases in LAUNCHES.items()
    for case in cases
]
each_case = pytest.mark.parametrize(("launch", "name", "kind", "share", "keys"), CASES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of every kind."""
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_experts(root / kind, kind)
    return root


@pytest.fixture(scope="module")
def launched(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One of `LAUNCHES` -> the folder that `expert_ranks.py` left."""

    @functools.cache
    def get(launch: str) -> Path:
        out = tmp_path_factory.mktemp(launch)
        asked = [f"{name},{kind},{keys}" for name, kind, _, keys in LAUNCHES[launch]]
        processes = 4 if launch == "four" else 2
        torchrun(processes, str(ROOT / "tests/policy/expert_ranks.py"), str(models), str(out), *asked, timeout_s=500)
        return out

    return get


@pytest.fixture(scope="module")
def recorded(launched: Callable[[str], Path]) -> Callable[[str, str], list[dict[str, Any]]]:
    """(launch, case) -> what every process recorded."""

    def get(launch: str, name: str) -> list[dict[str, Any]]:
        files = sorted((launched(launch) / name).glob("rank*.pt"))
        return [torch.load(file, weights_only=False) for file in files]

    return get


@pytest.fixture(scope="module")
def alone(models: Path) -> Callable[[str, bool], OneProcess]:
    """(kind, whether routers are trained) -> the same steps in this process, by plain PyTorch."""
    return functools.cache(lambda kind, routers: train_alone(models / kind, kind, train_router=routers))


@each_case
def test_loss_gradients_and_weights_are_those_of_one_process(
    recorded: Any, alone: Any, launch: str, name: str, kind: str, share: int, keys: str
) -> None:
    expected = alone(kind, "train_router" in keys)
    assert max(expected.norms) > 1.0  # clipping is at work
    for seen in recorded(launch, name):
        for number, step in enumerate(seen["steps"]):
            assert step["loss"] == pytest.approx(expected.losses[number], abs=1e-5)
            assert step["norm"] == pytest.approx(expected.norms[number], rel=1e-5)
            assert set(step["moments"]) == set(expected.moments[number])  # all that is trained, and no other
            for parameter, moment in expected.moments[number].items():
                found = step["moments"][parameter]
                torch.testing.assert_close(found, moment, atol=1e-7, rtol=1e-4, msg=f"step {number}: {parameter}")
        assert set(seen["weights"]) == set(expected.weights)
        for parameter, tensor in expected.weights.items():
            torch.testing.assert_close(seen["weights"][parameter], tensor, atol=2e-5, rtol=0, msg=parameter)


@each_case
def test_a_process_holds_its_share_of_every_layer(
    recorded: Any, launch: str, name: str, kind: str, share: int, keys: str
) -> None:
    layers = 2  # of both kinds
    for seen in recorded(launch, name):
        held = {shape[0] for parameter, shape in seen["shapes"].items() if ".experts.w" in parameter}
        assert held == {EXPERTS // share}
        assert sum(parameter.endswith("experts.w1") for parameter in seen["shapes"]) == layers


@each_case
def test_the_export_is_that_of_one_process_bit_for_bit(
    launched: Any, models: Path, recorded: Any, launch: str, name: str, kind: str, share: int, keys: str
) -> None:
    folder = launched(launch) / name
    expected, found = (load_file(path / "model.safetensors") for path in (models / kind, folder / "untrained"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[tensor], expected[tensor]) for tensor in expected)
    read: Any = AutoModelForCausalLM.from_pretrained(folder / "trained", dtype=torch.float32, output_loading_info=True)
    model, info = read
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert set(load_file(folder / "trained/model.safetensors")) == recorded(launch, name)[0]["published"]
    published = recorded(launch, name)[0]["weights"]
    assert all(torch.equal(tensor, published[parameter]) for parameter, tensor in model.state_dict().items())


@each_case
def test_a_resumed_run_goes_on_bit_for_bit(
    recorded: Any, launch: str, name: str, kind: str, share: int, keys: str
) -> None:
    for seen in recorded(launch, name):
        (numbers, weights), (again, weights_again) = seen["on"], seen["again"]
        assert again == numbers
        assert weights.keys() == weights_again.keys()
        assert all(torch.equal(weights[parameter], weights_again[parameter]) for parameter in weights)
        assert any(not torch.equal(weights[parameter], seen["weights"][parameter]) for parameter in weights)


def test_transformers_records_routers_of_the_sharded_model_and_of_a_plain_one_beside_it(recorded: Any) -> None:
    for kind in KINDS:
        for seen in recorded("two", f"{kind}_zero1"):
            assert len(seen["seen"]) == 2  # layers
            for sharded, plain in seen["seen"]:
                torch.testing.assert_close(sharded, plain, atol=1e-5, rtol=1e-5)


@needs_vllm
@pytest.mark.slow
def test_vllm_scores_an_export_as_transformers_does(launched: Any) -> None:
    folder = launched("two") / "qwen3_moe_zero2/trained"
    engine = vllm_engine("qwen3_moe")
    engine.load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert largest_error(engine, model, sequences(5, seed=7)) < 1e-4  # nats


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trl_trains_on_from_an_export(launched: Any, tmp_path: Path, kind: str) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    folder = launched("two") / f"{kind}_zero2/trained"
    small = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 32}
    off = {"use_cpu": True, "bf16": False, "report_to": [], "router_aux_loss_coef": 0.0}  # TRL's needs `num_experts`
    arguments = trl.SFTConfig(str(tmp_path), **small, **off)
    rows = Dataset.from_dict({"text": ["1+2=3", "12+3=15"]})
    trainer = trl.SFTTrainer(str(folder), args=arguments, train_dataset=rows, processing_class=TOKENIZER)
    saved = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items())
    assert trainer.train().training_loss > 0


@pytest.mark.slow
def test_loads_biases_balance_and_replay_are_those_of_one_process(models: Path, tmp_path: Path) -> None:
    script = str(ROOT / "tests/policy/expert_routing_ranks.py")
    for processes in (1, 2):
        torchrun(processes, script, str(models), str(tmp_path))
    one, two = (torch.load(tmp_path / f"{processes}.pt", weights_only=False) for processes in (1, 2))
    for kind in KINDS:
        assert two[kind]["metrics"] == pytest.approx(one[kind]["metrics"], rel=1e-5)
        assert one[kind]["metrics"]["replay/changed"] > 0.5
        for name, tensor in one[kind]["routers"].items():
            torch.testing.assert_close(two[kind]["routers"][name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_in_bf16_it_trains_as_closely_and_resumes_as_exactly(
    models: Path, alone: Callable[[str, bool], OneProcess], tmp_path: Path
) -> None:
    asked = [f'{kind},{kind},zero_stage={stage},expert_parallel=2,dtype="bf16"' for stage, kind in enumerate(KINDS, 1)]
    torchrun(2, str(ROOT / "tests/policy/expert_ranks.py"), str(models), str(tmp_path), *asked)
    for kind in KINDS:
        seen = torch.load(tmp_path / kind / "rank1.pt", weights_only=False)
        for number, step in enumerate(seen["steps"]):
            assert step["loss"] == pytest.approx(alone(kind, False).losses[number], abs=0.02)
            assert step["norm"] == pytest.approx(alone(kind, False).norms[number], rel=0.02)
        assert seen["on"][0] == seen["again"][0]
        assert all(torch.equal(tensor, seen["again"][1][name]) for name, tensor in seen["on"][1].items())
