"""The machine as the doctor sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cascade.doctor import machine
from cascade.doctor.finding import Finding


def test_a_torch_that_does_not_load_is_an_error() -> None:
    finding = machine.accelerator([], "libcudart.so.13: cannot open shared object file")
    assert finding.status == "missing"
    assert "libcudart" in finding.detail


def test_an_operator_that_is_not_compiled_comes_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert f"TORCH_EXTENSIONS_DIR={tmp_path}" in machine.operator().fix
    library = tmp_path / machine.OPERATOR / f"{machine.OPERATOR}.so"
    library.parent.mkdir()
    library.touch()
    assert machine.operator().status == "ok"


def test_no_compiler_is_a_warning_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in machine.compiler().detail


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**29, 2**29))  # type: ignore[attr-defined]
    assert machine.free("disk", tmp_path, 1.0, "Free some.") == Finding(
        "disk", "warning", f"0.5 GiB free at {tmp_path}", "Free some."
    )
