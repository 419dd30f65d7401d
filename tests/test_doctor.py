"""The doctor sees what is there and what is not, quickly, and its exit code speaks of the core alone."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import stat
import time
from pathlib import Path

import pytest

from cascade import doctor
from cascade.doctor import Finding, diagnose, exit_code, print_findings

LOCK = Path(__file__).parent.parent / "launch" / "cpu" / "requirements.txt"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that no test reads the developer's netrc."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def found(name: str) -> Finding:
    return next(finding for finding in diagnose() if finding.name == name)


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_tested_versions_are_those_of_the_lock() -> None:
    pins = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    assert dict(doctor.TESTED) == {package: pins[package] for package in doctor.TESTED}


def test_a_whole_diagnosis_takes_less_than_15_seconds_and_finds_the_core() -> None:
    start = time.monotonic()
    findings = diagnose()
    assert time.monotonic() - start < 15
    assert exit_code(findings) == 0, [finding for finding in findings if finding.status == "missing"]
    assert {"python", "torch", "accelerator", "vllm", "sandbox", "wandb login", "disk"} <= {
        each.name for each in findings
    }
    assert all(finding.fix for finding in findings if finding.status != "ok")


def test_a_missing_library_is_named_with_the_command_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "deepspeed":
            raise importlib.metadata.PackageNotFoundError(package)
        return "9.9.9" if package == "datasets" else real(package)

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = {finding.name: finding for finding in diagnose()}
    assert findings["deepspeed"].status == "missing"
    assert 'pip install "deepspeed==' in findings["deepspeed"].fix
    assert findings["datasets"].status == "warning"
    assert exit_code(list(findings.values())) == 1


def test_a_cuda_torchvision_beside_a_cpu_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.get)
    finding = doctor._torchvision()
    assert (finding.status, finding.fix) == ("missing", doctor.UNINSTALL_TORCHVISION)


def test_gpus_are_counted_by_kind_and_spare_the_cpu_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cuda_devices", lambda: (["H100 80 GiB", "H100 80 GiB"], ""))
    findings = {finding.name: finding for finding in diagnose()}
    assert findings["accelerator"].detail == "2 x H100 80 GiB"
    assert "deepspeed operator" not in findings
    assert findings["vllm"].status == "ok" or findings["vllm"].fix == "pip install vllm"


def test_a_torch_that_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cuda_devices", lambda: ([], "libcudart.so.13: cannot open shared object file"))
    finding = found("accelerator")
    assert finding.status == "missing"
    assert "libcudart" in finding.detail


def test_an_operator_that_is_not_compiled_comes_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert f"TORCH_EXTENSIONS_DIR={tmp_path}" in doctor._operator().fix
    library = tmp_path / doctor.OPERATOR / f"{doctor.OPERATOR}.so"
    library.parent.mkdir()
    library.touch()
    assert doctor._operator().status == "ok"


def test_no_compiler_is_a_warning_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in doctor._compiler().detail


def test_a_sandbox_that_is_installed_but_forbidden_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "bwrap", "echo 'No permissions to create new namespace' >&2; exit 1")
    assert doctor._sandbox().status == "warning"
    program(tmp_path, "bwrap", "exit 0")
    assert doctor._sandbox().status == "ok"


def test_wandb_is_asked_for_a_login_only_when_it_is_online(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._wandb().fix == "wandb login"
    netrc = home / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password x\n")
    netrc.chmod(0o600)
    assert doctor._wandb().status == "ok"
    netrc.unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert doctor._wandb().status == "ok"


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**29, 2**29))  # type: ignore[attr-defined]
    assert doctor._free("disk", tmp_path, 1.0, "Free some.") == Finding(
        "disk", "warning", f"0.5 GiB free at {tmp_path}", "Free some."
    )


def test_findings_print_as_lines_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("vllm", "warning", "not installed", "pip install vllm"), Finding("rich", "ok", "15.0.0")]
    print_findings(findings)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["warning", "vllm", "not", "installed"]
    assert lines[1].strip() == "-> pip install vllm"
    print_findings(findings, as_json=True)
    assert json.loads(capsys.readouterr().out)[1] == {"name": "rich", "status": "ok", "detail": "15.0.0", "fix": ""}
    assert exit_code(findings) == 0
