"""The recipe for a real language model runs every kind of stage, in its smallest form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cascade.data.gguf_model import convert_gguf, find_smollm2
from cascade.run_folder import read_status
from tests.conftest import REPOSITORY, cascade

DATA = Path(os.environ.get("CASCADE_DATA", REPOSITORY.parent / "shared" / "data")) / "gsm8k"
STAGES = ("sft", "math_rl", "mopd")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DATA.is_dir(), reason="GSM8K is not at $CASCADE_DATA/gsm8k, and there may be no hub")
def test_smollm2_trains_two_steps_of_every_stage_on_gsm8k(tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    convert_gguf(find_smollm2(), model)
    done = cascade(
        "run",
        "recipe=smollm2",
        f"model.path={model}",
        f"run_dir={run}",
        f"environments.math.params.train={DATA / 'train.jsonl.gz'}",
        f"environments.math.params.test={DATA / 'test.jsonl.gz'}",
        "environments.math.max_completion_length=32",
        "evaluation.validation_rows=2",
        "evaluation.test_rows=2",
        *(f"stages.{name}.max_steps=2" for name in STAGES),
        timeout_s=1700,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    stages = read_status(run)["stages"]
    assert [(stage["name"], stage["status"], stage["steps"]) for stage in stages] == [(n, "done", 2) for n in STAGES]
    assert all(stage["scores"]["test"]["math"]["n"] == 2 for stage in stages)
