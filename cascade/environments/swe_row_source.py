"""What SWE environments share: rows of every form, and repositories found beside the file that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cascade.environments.row_source import RowEnvironment
from cascade.environments.sandboxed import Sandboxed
from cascade.environments.swe_rows import read_task
from cascade.errors import FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.apptainer import found

IMAGES = "apptainer"
"""The back end for rows whose code is in a container image."""


@dataclass(frozen=True, kw_only=True)
class SweRows(Sandboxed, RowEnvironment):
    """Rows of ours, SWE-bench, SWE-Gym, SWE-smith, R2E-Gym and NeMo-Gym.

    Args:
        repositories: the folder that relative paths of repositories start in; default: that of the file of rows.
    """

    back_ends: ClassVar[frozenset[str]] = Sandboxed.back_ends - {"none"} | {
        IMAGES
    }  # tests need a repository's own copy
    domain: str = "swe"
    repositories: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_back_end()

    def check_machine(self) -> None:
        """See `Sandboxed.check_machine`; where code is in images, that there is something to run them with."""
        if self.sandbox == IMAGES:
            found()
        else:
            super().check_machine()

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return read_task(record).as_data()

    def placed(self, data: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
        """A row's data with the path of its repository as this machine has it. See `ReadsPaths`."""
        start = Path(self.repositories) if self.repositories else folder
        if start is None or not data.get("repository"):
            return dict(data)
        return {**data, "repository": str((start.expanduser() / data["repository"]).absolute())}


def infrastructure(error: SandboxError) -> VerifierFailure:
    """A failure of the sandbox as the verdict that is none."""
    return VerifierFailure(FailureKind.INFRASTRUCTURE, str(error))
