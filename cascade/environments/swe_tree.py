"""What an agent has changed in its repository: found by a program inside the room, checked outside.

Links are neither followed nor taken along, and large files are not: the tree is an agent's, who may have put anything
there. Whatever the program inside says is a list of paths and contents, and nothing more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cascade.environments.patches import Changes, PatchError, checked_path
from cascade.errors import SandboxError
from cascade.sandbox.limits import Outcome

FILE_BYTES = 1 << 20  # of a changed file; a larger one is left out
ALL_BYTES = 8 << 20  # of all changed files
OUTPUT_KIB = 16 << 10  # that a room must let through for all of them
LOOK_S = 120.0  # for looking through a repository

# What tools leave behind, and what belongs to nobody's change.
PASSED_OVER = (".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")

# Python 3.6 or newer: of an image, maybe.
_LOOK = r"""
import base64, hashlib, json, os, stat, sys
root, passed_over, known, most, most_of_all = json.loads(SETTINGS)
left, found, left_out, total = dict(known or {}), {}, 0, 0

def digest(path, size):
    hashed = hashlib.blake2b()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            hashed.update(part)
    return "%d-%s" % (size, hashed.hexdigest()[:24])

for folder, folders, files in os.walk(root):
    folders[:] = sorted(name for name in folders if name not in passed_over)
    for name in sorted(files):
        path = os.path.join(folder, name)
        at = os.path.relpath(path, root)
        try:
            state = os.lstat(path)
            if name in passed_over or name.endswith(".pyc") or not stat.S_ISREG(state.st_mode):
                continue
            if known is None:
                found[at] = digest(path, state.st_size)
                continue
            before = left.pop(at, "")
            if before.partition("-")[0] == str(state.st_size) and before == digest(path, state.st_size):
                continue
            if state.st_size > most:
                left_out += 1
                continue
            with open(path, "rb") as file:
                data = file.read(most)
        except OSError:
            left_out += 1
            continue
        total += len(data)
        if total > most_of_all:
            sys.exit("too much")
        found[at] = base64.b64encode(data).decode()
print(json.dumps([found, sorted(left), left_out]))
"""


class Place(Protocol):
    """Where the repository is."""

    def run(self, command: Sequence[str], stdin: bytes, *, time_s: float | None = None) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class TreeChanges:
    """What is different from the tree as it was, e.g. `TreeChanges({"schema.py": b"...", "old.py": None})`."""

    files: Changes = field(default_factory=dict)
    left_out: int = 0  # changed files that are too large, or cannot be read
    unreadable: str = ""  # why nothing is known: too much has changed, or the room has no memory left


def manifest(place: Place, root: str) -> dict[str, str]:
    """Path -> size and hash of every regular file. Raises `SandboxError` where the tree cannot be read."""
    outcome = place.run(("python", "-"), _program(root, None), time_s=LOOK_S)
    if outcome.status != "ok":
        said = outcome.stderr.decode(errors="replace")[-300:].strip()
        raise SandboxError(f"{root} cannot be looked through ({outcome.status}): {said}", "Raise the limits.")
    return json.loads(outcome.stdout)[0]


def changes_since(place: Place, root: str, known: Mapping[str, str]) -> TreeChanges:
    """What is different from the tree of `known`, as `manifest` gave it."""
    outcome = place.run(("python", "-"), _program(root, known), time_s=LOOK_S)
    if outcome.status != "ok":
        return TreeChanges(unreadable=outcome.stderr.decode(errors="replace")[-100:].strip() or outcome.status)
    try:
        found, gone, left_out = json.loads(outcome.stdout)
        files: Changes = dict.fromkeys(map(_path, gone))
        files.update((_path(path), base64.b64decode(data)) for path, data in found.items())
        return TreeChanges(files, int(left_out))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return TreeChanges(unreadable="no list of changes")


def _path(path: str) -> str:
    """Raises `ValueError` for what no walk of the tree gives."""
    try:
        return checked_path(path)
    except PatchError as error:
        raise ValueError(str(error)) from error


def _program(root: str, known: Mapping[str, str] | None) -> bytes:
    settings = json.dumps([root, PASSED_OVER, known, FILE_BYTES, ALL_BYTES])
    return f"SETTINGS = {settings!r}\n{_LOOK}".encode()
