"""The doctor sees what is there and what is not, quickly, and its exit code speaks of the core alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cascade.doctor import diagnose, exit_code, machine, print_findings, sandbox
from cascade.doctor.finding import Finding


@pytest.fixture
def without_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sandbox is not what the test is about: trying every attack takes seconds."""
    monkeypatch.setattr(sandbox, "sandbox", lambda: iter(()))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own, so that no test reads the developer's netrc."""
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_whole_diagnosis_takes_less_than_30_seconds_and_finds_the_core() -> None:
    start = time.monotonic()
    findings = diagnose()
    assert time.monotonic() - start < 30
    assert exit_code(findings) == 0, [finding for finding in findings if finding.status == "missing"]
    assert {"python", "torch", "accelerator", "vllm", "sandbox", "wandb login", "disk"} <= {
        each.name for each in findings
    }
    assert all(finding.fix for finding in findings if finding.status != "ok")


@pytest.mark.usefixtures("without_attacks")
def test_gpus_are_counted_by_kind_and_spare_the_cpu_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_devices", lambda: (["H100 80 GiB", "H100 80 GiB"], ""))
    findings = {finding.name: finding for finding in diagnose()}
    assert findings["accelerator"].detail == "2 x H100 80 GiB"
    assert "deepspeed operator" not in findings


@pytest.mark.usefixtures("without_attacks")
def test_a_torch_that_does_not_load_fails_the_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_devices", lambda: ([], "libcudart.so.13: cannot open shared object file"))
    assert exit_code(diagnose()) == 1


def test_findings_print_as_lines_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("vllm", "warning", "not installed", "pip install vllm"), Finding("rich", "ok", "15.0.0")]
    print_findings(findings)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["warning", "vllm", "not", "installed"]
    assert lines[1].strip() == "-> pip install vllm"
    print_findings(findings, as_json=True)
    assert json.loads(capsys.readouterr().out)[1] == {"name": "rich", "status": "ok", "detail": "15.0.0", "fix": ""}
    assert exit_code(findings) == 0
