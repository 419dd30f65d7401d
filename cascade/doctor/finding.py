"""One thing the doctor looked at."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it, e.g. `Finding("vllm", "warning", "not installed", "make vllm")`.

    `missing`: the core does not work without it. `warning`: something optional is absent, or is not what was tested.
    `failed`: what a run on several nodes needs does not work on this cluster.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def version_of(package: str) -> str | None:
    """The installed version of a distribution; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
