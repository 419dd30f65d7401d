"""A recipe trains the same on two processes as on one, whoever starts them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import STAGES, metrics, python, shared_run, torchrun, words_of

TWO = ("launch=torchrun", "launch.threads=1", "launch.processes=2")
SLOW = pytest.mark.slow


@pytest.mark.parametrize("zero_stage", [3, pytest.param(2, marks=SLOW), pytest.param(0, marks=SLOW)])
def test_two_processes_run_sft_grpo_and_mopd_as_one_does(
    tmp_path_factory: pytest.TempPathFactory, zero_stage: int
) -> None:
    temporary = tmp_path_factory.getbasetemp()
    one = shared_run(temporary, "one_process")
    two = shared_run(temporary, f"two_processes_{zero_stage}", *TWO, f"policy.zero_stage={zero_stage}")
    with_gradient, rewards = 0, set()
    for stage in STAGES:
        alone, together = metrics(one, stage), metrics(two, stage)
        assert [line["step"] for line in together] == [line["step"] for line in alone]
        for a, b in zip(alone, together, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-4), (stage, a["step"])
            assert b.get("reward") == a.get("reward"), (stage, a["step"])
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3), (stage, a["step"])
            assert b["tokens"] == a["tokens"]
            with_gradient += a["grad_norm"] > 0
            rewards.add(a.get("reward"))
        expected, found = (load_file(run / "stages" / stage / "model" / "model.safetensors") for run in (one, two))
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0, msg=f"{stage} {name}")
        scores = [json.loads((run / "stages" / stage / "evaluation.json").read_text())["scores"] for run in (one, two)]
        assert scores[0] == scores[1]
    assert with_gradient >= 12  # of 13: the comparison is of training, not of standing still
    assert len(rewards) > 5


def one_step(temporary: Path, run: Path) -> list[str]:
    """A run of one stage of one step."""
    others = [f"~stages.{stage}" for stage in STAGES[1:]]
    return [
        *("-m", "cascade", "run", *words_of(temporary, run), *others),
        *("stages.sft.max_steps=1", "evaluation.validation_rows=2", "evaluation.test_rows=2"),
    ]


def check_one_step(run: Path) -> None:
    assert [line["step"] for line in metrics(run, "sft")] == [1]
    assert (run / "stages" / "sft" / "model" / "COMPLETE").is_file()
    assert json.loads((run / "stages" / "sft" / "status.json").read_text())["status"] == "done"


def test_started_by_torchrun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    done = torchrun(2, *one_step(tmp_path_factory.getbasetemp(), tmp_path / "run"))
    check_one_step(tmp_path / "run")
    assert "built successfully" not in done.stdout
    assert "FutureWarning" not in done.stderr
    assert done.stdout.count("sft  1/1") + done.stdout.count("sft 1/1") == 1  # one process speaks


@pytest.mark.slow
def test_started_by_accelerate(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    python(*launcher, "--mixed_precision", "no", *one_step(tmp_path_factory.getbasetemp(), tmp_path / "run"))
    check_one_step(tmp_path / "run")


@pytest.mark.slow
def test_started_by_deepspeed(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    words = one_step(tmp_path_factory.getbasetemp(), tmp_path / "run")
    python(str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--module", *words[1:])
    check_one_step(tmp_path / "run")
