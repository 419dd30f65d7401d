"""The recipe for a real language model runs every kind of stage, in its smallest form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cascade.data.gguf_model import convert_gguf, find_smollm2
from cascade.run_folder import read_status
from data import long_context
from tests.conftest import REPOSITORY, cascade

DATA = Path(os.environ.get("CASCADE_DATA", REPOSITORY.parent / "shared" / "data"))
STAGES = ("sft", "if_rl", "multi_domain_rl", "long_context_rl", "math_rl", "code_rl", "swe_rl", "mopd")
DOMAINS = {"math", "instruction_following", "multiple_choice", "long_context", "code", "swe"}
ENVIRONMENTS = (*sorted(DOMAINS), "exercism", "quixbugs")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not at $CASCADE_DATA, and there may be no hub")
def test_smollm2_trains_every_stage_on_real_rows_of_six_domains(tmp_path: Path) -> None:
    model, run, documents = tmp_path / "model", tmp_path / "run", tmp_path / "long_context"
    convert_gguf(find_smollm2(), model)
    long_context.extract(documents)
    done = cascade(
        "run",
        "recipe=smollm2_programs",  # which is smollm2 with two more environments
        f"model.path={model}",
        f"run_dir={run}",
        *(
            f"environments.{name}.params.{split}={DATA / 'gsm8k' / f'{split}.jsonl.gz'}"
            for name in ("math", "code", "swe")
            for split in ("train", "test")
        ),
        f"environments.exercism.params.train={DATA / 'exercism' / 'practice.jsonl.gz'}",
        f"environments.quixbugs.params.train={DATA / 'quixbugs' / 'programs.jsonl.gz'}",
        f"environments.instruction_following.params.prompts={DATA / 'gsm8k' / 'train.jsonl.gz'}",
        f"environments.multiple_choice.params.train={DATA / 'multiple_choice' / 'rows.jsonl.gz'}",
        f"environments.long_context.params.train={documents / 'hotpotqa.jsonl'}",
        *(f"environments.{name}.max_completion_length=24" for name in ENVIRONMENTS),
        "evaluation.validation_rows=2",
        "evaluation.test_rows=2",
        *(f"stages.{name}.max_steps=1" for name in STAGES),
        timeout_s=1700,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    stages = read_status(run)["stages"]
    assert [(stage["name"], stage["status"], stage["steps"]) for stage in stages] == [(n, "done", 1) for n in STAGES]
    rows = {**dict.fromkeys(DOMAINS, 2), "code": 4, "swe": 4}  # two of each of their environments
    assert all({d: s["n"] for d, s in stage["scores"]["test"].items()} == rows for stage in stages)
