"""What environments share that run programs: a back end that exists, and opens rooms before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cascade.sandbox.backends import BACK_ENDS, check_name, sandbox
from cascade.sandbox.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Sandboxed:
    """An environment whose programs run in rooms of the back end `sandbox`."""

    back_ends: ClassVar[frozenset[str]] = frozenset(BACK_ENDS)  # that can do what it needs
    sandbox: str = "bwrap"

    def check_back_end(self) -> None:
        """To be called when an environment is made. Raises `ConfigError` for a name that is none."""
        check_name(self.sandbox, self.back_ends)

    def check_machine(self) -> None:
        """See `ChecksMachine`: opens a room. Raises `SandboxError`, or `ConfigError`, saying what is missing."""
        with sandbox(self.sandbox).open(Limits()):
            pass
