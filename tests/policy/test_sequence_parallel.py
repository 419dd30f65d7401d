"""Processes that share rows find the loss and the gradients that one process finds, packed documents and all."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policy.sequence_ranks import KINDS, case, write_kind
from tests.processes import ROOT, torchrun

Found = Callable[[str], dict[str, Any]]
Cases = dict[str, tuple[str, dict[str, Any]]]
"""Case -> kind of model, and keys of the policy."""

FAST: Cases = {
    "llama_1": ("llama", {"zero_stage": 1}),
    "windows": ("windows", {"zero_stage": 2, "attention": "eager"}),
    "moe_3": ("qwen3_moe", {"zero_stage": 3, "experts": "eager"}),
    "mamba_3": ("nemotron_h", {"zero_stage": 3}),
    "recomputed": ("nemotron_h", {"zero_stage": 2, "activation_checkpointing": True}),
    "adapters": ("qwen3_moe", {"zero_stage": 2, "lora": {"rank": 4}}),
}
LEAKS: Cases = {"leak_nemotron_h": ("nemotron_h", {"zero_stage": 2})}  # attention, experts and Mamba layers
STEPS: Cases = {"steps": ("qwen3_moe", {"zero_stage": 2}), "reward": ("llama", {"zero_stage": 1})}
MORE: Cases = {
    **{f"llama_{stage}": ("llama", {"zero_stage": stage}) for stage in (1, 2, 3)},
    **{f"windows_{stage}": ("windows", {"zero_stage": stage}) for stage in (1, 3)},
    **{f"moe_{stage}": ("qwen3_moe", {"zero_stage": stage}) for stage in (1, 2, 3)},
    **{f"mamba_{stage}": ("four_groups", {"zero_stage": stage}) for stage in (1, 2, 3)},
    **{
        f"recomputed_{stage}": ("four_groups", {"zero_stage": stage, "activation_checkpointing": True})
        for stage in (1, 3)
    },
}
"""On four processes, of which four share rows, or two and two."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in KINDS:
        write_kind(folder, name)
    return folder


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Case -> what two processes that share rows have found."""
    return launched(models, tmp_path_factory.mktemp("two"), 2, 2, {**FAST, **LEAKS, "steps": STEPS["steps"]})


@pytest.fixture(scope="module")
def four(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    """How many share rows -> case -> what four processes have found."""

    @functools.cache
    def get(sharing: int) -> Found:
        return launched(models, tmp_path_factory.mktemp("four"), 4, sharing, {**MORE, **STEPS})

    return get


def launched(models: Path, out: Path, processes: int, sharing: int, cases: Cases) -> Found:
    """Runs all cases in one launch."""
    asked = [
        ",".join([name, kind, *(f"{key}={json.dumps(value)}" for key, value in keys.items())])
        for name, (kind, keys) in cases.items()
    ]
    asked = [f"{words},sequence_parallel={sharing}" for words in asked]
    script = str(ROOT / "tests/policy/sequence_ranks.py")
    torchrun(processes, script, str(models), str(out), *asked, timeout_s=580)
    return lambda name: torch.load(out / f"{name}.pt")


@pytest.fixture(scope="module")
def alone(models: Path) -> Callable[[str, str, str], dict[str, Any]]:
    """Name of a case, kind of model, keys in JSON -> what this one process finds, computed once."""

    @functools.cache
    def get(name: str, kind: str, kept: str) -> dict[str, Any]:
        return case(name, models / kind, **{"zero_stage": 1, **json.loads(kept)})

    return get


def same_gradients(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["sums"], expected["sums"], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found["candidates"], expected["candidates"], atol=2e-5, rtol=0)
    assert set(found["gradients"]) == set(expected["gradients"])
    for parameter, gradient in expected["gradients"].items():
        torch.testing.assert_close(found["gradients"][parameter], gradient, atol=2e-6, rtol=1e-4, msg=parameter)
    assert found["beside"] < 1e-4


def same_steps(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for mine, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for parameter, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][parameter], weight, atol=1e-4, rtol=0, msg=parameter)


@pytest.mark.parametrize("name", FAST)
def test_two_processes_that_share_rows_find_the_gradients_of_one(shared: Found, alone: Any, name: str) -> None:
    kind, keys = FAST[name]
    kept = {key: keys[key] for key in keys.keys() & {"attention", "lora"}}
    same_gradients(shared(name), alone("gradients", kind, json.dumps(kept)))


@pytest.mark.parametrize("name", LEAKS)
def test_a_document_is_not_reached_by_others_in_its_row(shared: Found, name: str) -> None:
    one, other = shared(name).values()
    torch.testing.assert_close(one["log_probs"], other["log_probs"], atol=1e-6, rtol=0)  # experts: batched otherwise
    assert one["log_probs"].count_nonzero() == 13
    for parameter, gradient in one["gradients"].items():
        torch.testing.assert_close(other["gradients"][parameter], gradient, atol=1e-5, rtol=1e-5, msg=parameter)


def test_whole_steps_measure_and_change_what_one_process_does(shared: Found, alone: Any) -> None:
    same_steps(shared("steps"), alone("steps", STEPS["steps"][0], "{}"))


def test_an_export_does_not_tell_how_rows_were_shared(shared: Found) -> None:
    assert "ulysses" not in shared("steps")["config"]


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [2, 4])
@pytest.mark.parametrize("name", MORE)
def test_four_processes_find_the_gradients_of_one(
    four: Callable[[int], Found], alone: Any, name: str, sharing: int
) -> None:
    same_gradients(four(sharing)(name), alone("gradients", MORE[name][0], "{}"))


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [2, 4])
@pytest.mark.parametrize("name", STEPS)
def test_steps_of_four_processes_are_those_of_one(
    four: Callable[[int], Found], alone: Any, name: str, sharing: int
) -> None:
    same_steps(four(sharing)(name), alone(name, STEPS[name][0], "{}"))
