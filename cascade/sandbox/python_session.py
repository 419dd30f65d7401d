"""Python with variables that last from call to call, in a room of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from cascade.errors import ConfigError, SandboxError
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Furniture, Room, Sandbox

SCRIPT = (Path(__file__).parent / "inside" / "session.py").read_bytes()
PACKAGES = "/packages"  # where they lie inside
DONE, LATE, DIED = 0, 1, 2  # what the session says of a call
SPARE_S = 5.0  # beyond the time of a call, in which the session itself is to end it
OUTPUT_KIB = 2048  # a little more than the session lets a call write


class PythonSession:
    """Runs code as a notebook runs its cells, and says what it printed, the value of a last expression included.

    What a call did before it raised an exception stays; a call that was ended at a limit leaves no variable behind.
    Used by one thread at a time. Raises `SandboxError` where the sandbox has failed.

    Args:
        limits: of the room. `time_s` is that of one call, wall clock and CPU.
        packages: names of installed packages that can be imported, besides the standard library.
    """

    def __init__(self, box: Sandbox, limits: Limits, packages: Sequence[str] = ()) -> None:
        self._box = box
        self._time_s = limits.time_s
        self._limits = Limits(
            time_s=limits.time_s + SPARE_S,
            memory_mib=limits.memory_mib,
            disk_mib=limits.disk_mib,
            processes=limits.processes,
            output_kib=OUTPUT_KIB,
            cpus=limits.cpus,
        )
        self._shown = shown_packages(packages)
        self._room: Room | None = None

    def run(self, code: str) -> str:
        """What a call printed, with a line in brackets where it did not come to its end."""
        room = self._room or self._opened()
        source = code.encode(errors="replace")
        outcome = room.run(("python", "session.py", "call", repr(self._time_s)), source, keep=True)
        said = outcome.stdout.decode(errors="replace").rstrip("\n")
        if outcome.status == "ok":
            return said
        if outcome.exit_code in (LATE, DIED):
            return f"{said}\n{self._why(outcome)}".lstrip("\n")
        self.close()
        return f"{said}\n[Python was ended ({_how(outcome)}) and begins anew: earlier variables are gone]".lstrip("\n")

    def close(self) -> None:
        """Ends everything. Idempotent; another call begins anew."""
        if self._room is not None:
            self._room.close()
            self._room = None

    def _opened(self) -> Room:
        self._room = room = self._box.open(self._limits, self._shown)
        room.write("session.py", SCRIPT)
        outcome = room.run(("python", "session.py", "serve"), keep=True)
        if outcome.status != "ok":
            self.close()
            said = outcome.stderr.decode(errors="replace")[-500:]
            raise SandboxError(f"A Python session cannot be begun ({outcome.status}): {said}", "Raise its limits.")
        return room

    def _why(self, outcome: Outcome) -> str:
        why = f"ended after {self._time_s:g} s" if outcome.exit_code == LATE else "its process ended"
        why = "out of memory" if outcome.status == "memory" else why
        return f"[{why}: the call left no variables behind]"


def shown_packages(names: Sequence[str]) -> Furniture | None:
    """Packages of this environment, to be seen in rooms. Raises `ConfigError` for one that is not installed."""
    shown = {}
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f"The package {name} is not installed.", f"`pip install {name}`, or leave it out.")
        shown[f"{PACKAGES}/{name}"] = Path(next(iter(found.submodule_search_locations)))
    return Furniture(read_only=shown, variables={"PYTHONPATH": PACKAGES}) if shown else None


def _how(outcome: Outcome) -> str:
    return {"runtime_error": "it does not answer", "killed": "killed"}.get(outcome.status, outcome.status)
