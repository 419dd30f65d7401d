"""Packages of the core, and the login."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from cascade.doctor import diagnose, exit_code, libraries

LOCK = Path(__file__).parents[2] / "launch" / "cpu" / "requirements.txt"


def test_the_tested_versions_are_those_of_the_lock() -> None:
    pins = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    assert dict(libraries.TESTED) == {package: pins[package] for package in libraries.TESTED}


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
    monkeypatch.setattr(libraries, "version_of", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.get)
    finding = libraries.torchvision()
    assert (finding.status, finding.fix) == ("missing", libraries.UNINSTALL_TORCHVISION)


def test_wandb_is_asked_for_a_login_only_when_it_is_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert libraries.wandb_login().fix == "wandb login"
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password x\n")
    netrc.chmod(0o600)
    assert libraries.wandb_login().status == "ok"
    netrc.unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert libraries.wandb_login().status == "ok"
