"""A run whose training mix holds a prompt that is for evaluation stops before anything is computed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, cascade

IFEVAL = Path(os.environ.get("CASCADE_DATA", REPOSITORY.parent / "shared" / "data")) / "ifeval" / "input_data.jsonl"


@pytest.mark.skipif(not IFEVAL.is_file(), reason="IFEval's prompts are not at $CASCADE_DATA/ifeval")
def test_a_prompt_of_ifeval_among_the_training_rows_is_refused_in_any_wrapping(tmp_path: Path) -> None:
    prompt = json.loads(IFEVAL.read_text(encoding="utf-8").splitlines()[7])["prompt"]
    rows = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(20)]
    rows.append({"prompt": f"  {prompt.upper()}\n\n", "answer": "4"})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    params = f"{{train: {file}, validation_rows: 1, test_rows: 1}}"
    done = cascade(
        "run",
        "recipe=smoke",
        f"run_dir={tmp_path / 'run'}",
        f"+environments.brought={{kind: maths, domain: math, params: {params}}}",
        "+stages.sft.mix.brought=1",
    )
    assert done.returncode == 1
    assert "1 training rows of brought are evaluation prompts of IFEval or IFBench" in done.stderr
    assert not list((tmp_path / "run").glob("stages/*"))


def test_an_environment_whose_every_verdict_fails_stops_the_run_with_its_first_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken_environment.py").write_text(
        "from dataclasses import dataclass\n"
        "from cascade.environments.addition import Addition\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Broken(Addition):\n"
        "    def score(self, row, answer):\n"
        "        raise LookupError(f'no verdict on {row.id}')\n"
    )
    done = cascade(
        "run",
        "recipe=smoke",
        f"run_dir={tmp_path / 'run'}",
        "environments.math.kind=broken_environment.Broken",
        "stages.sft.max_steps=1",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "LookupError: no verdict on math/" in done.stderr
    assert "Traceback" in done.stderr
    assert "broken_environment.py" in done.stderr
    assert done.stderr.count("no verdict on math/") == 2, "the first failure, and no other"
