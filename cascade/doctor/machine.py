"""The machine: processors, compiler, DeepSpeed's operator, and room on disk and in shared memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cascade.doctor.finding import Finding
from cascade.doctor.libraries import TESTED
from cascade.locations import extensions_dir

OPERATOR = "deepspeed_shm_comm"
GIB = 2**30


def cuda_devices() -> tuple[list[str], str]:
    """Names and sizes of the GPUs torch sees, and the error when torch does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of CUDA is missing
        return [], str(error)
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{each.name} {each.total_memory / GIB:.0f} GiB" for each in found], ""


def accelerator(cuda: Sequence[str], error: str) -> Finding:
    """`cuda`, `error`: of `cuda_devices`."""
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


def compiler() -> Finding:
    """What DeepSpeed compiles its operators with."""
    compiler, ninja = shutil.which(os.environ.get("CXX") or "c++"), importlib.util.find_spec("ninja")
    if compiler and ninja:
        return Finding("compiler", "ok", f"{compiler}, ninja")
    absent = " and ".join([*([] if compiler else ["no C++ compiler"]), *([] if ninja else ["no ninja"])])
    fix = "apt install g++; pip install ninja"
    return Finding("compiler", "warning", f"{absent}: DeepSpeed cannot compile its operators", fix)


def operator() -> Finding:
    """Whether the operator that `deepspeed.init_distributed()` loads on a CPU is compiled already."""
    library = extensions_dir() / OPERATOR / f"{OPERATOR}.so"
    if library.is_file():
        return Finding("deepspeed operator", "ok", str(library))
    build = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()"
    fix = f'TORCH_EXTENSIONS_DIR={extensions_dir()} DS_ACCELERATOR=cpu {sys.executable} -c "{build}"'
    return Finding("deepspeed operator", "warning", "not compiled: the first run compiles it, about half a minute", fix)


def free(name: str, folder: Path, minimum_gib: float, fix: str) -> Finding:
    """Whether the file system of `folder` has `minimum_gib` free."""
    if not folder.is_dir():
        return Finding(name, "ok", f"there is no {folder} on this system")
    free_gib = shutil.disk_usage(folder).free / GIB
    detail = f"{free_gib:.1f} GiB free at {folder}"
    return Finding(name, "ok", detail) if free_gib >= minimum_gib else Finding(name, "warning", detail, fix)
