"""Says what this machine has, what it lacks, and how to get it. Looks, and changes nothing."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cascade.doctor import engines, libraries, machine, sandbox
from cascade.doctor.finding import Finding

MIN_DISK_GIB, MIN_SHM_GIB = 10.0, 1.0  # containers often have 64 MB of shared memory
ROOM = "Free some space, or choose another output folder."
SHARED = (
    "In a container: `docker run --shm-size 8g`. Workers, gloo and published weights (rollout.transport=shm) use it."
)


def diagnose() -> list[Finding]:
    """Everything worth knowing before a run, in a fixed order; takes seconds."""
    cuda, error = machine.cuda_devices()
    return [
        Finding("python", "ok", f"{platform.python_version()} at {sys.executable}"),
        *libraries.libraries(),
        libraries.torchvision(),
        machine.accelerator(cuda, error),
        machine.compiler(),
        *([] if cuda else [machine.operator()]),
        *engines.vllm(bool(cuda)),
        *sandbox.sandbox(),
        libraries.wandb_login(),
        machine.free("disk", Path.cwd(), MIN_DISK_GIB, ROOM),
        machine.free("shared memory", Path("/dev/shm"), MIN_SHM_GIB, SHARED),
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
