"""C++17 to a binary: the compiler runs in a room of its own, since a source can hold a compiler up like any program."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from cascade.errors import SandboxError
from cascade.sandbox.artifacts import Artifacts, cache_folder, locked
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.ports import Furniture, Sandbox

COMPILERS = ("g++", "clang++")
FLAGS = ("-O2", "-std=c++17", "-w", "-fmax-errors=5")
CLANG_FLAGS = ("-O2", "-std=c++17", "-w", "-ferror-limit=5")
LIMITS = Limits(time_s=30.0, memory_mib=1024, disk_mib=256, processes=32, output_kib=32 * 1024)
"""Of one compilation. The binary comes out by the standard output, whose limit is the binary's."""

KEPT_BYTES = 256 * 2**20  # of binaries on disk; one takes 20 to 100 KiB
SAID = 16 * 1024  # bytes of the compiler's messages that are kept
HEADERS = "/headers"  # where a room shows the precompiled header
EVERYTHING = "bits/stdc++.h"
_INCLUDES_EVERYTHING = re.compile(rb"^[ \t]*#[ \t]*include[ \t]*<bits/stdc\+\+\.h>", re.MULTILINE)
_OURS = "#include_next <bits/stdc++.h>\n"


class NotCompiled(Exception):
    """A source that the compiler refuses (`runtime_error`), or that holds it up: `outcome` says how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"not compiled: {outcome.status}")
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[NotCompiled], tuple[Outcome]]:
        return type(self), (self.outcome,)


@dataclass(frozen=True, slots=True)
class Compiler:
    """An installed compiler, e.g. `Compiler("/usr/bin/g++", "g++ (Debian 12.2.0-14) 12.2.0 ...", ("-O2", ...))`."""

    path: str
    version: str
    flags: tuple[str, ...]


@functools.cache
def compiler() -> Compiler:
    """The first of `COMPILERS` in PATH that rooms show. Raises `SandboxError` where there is none."""
    found = [(name, path) for name in COMPILERS if (path := shutil.which(name))]
    for name, path in found:
        meant = Path(path).resolve()
        if not meant.is_relative_to("/usr"):
            continue  # rooms show the system's programs only
        path = str(meant) if "++" in meant.name else path  # links may lead through /etc, which rooms do not show
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
        if said.returncode == 0:
            return Compiler(path, said.stdout, FLAGS if name == "g++" else CLANG_FLAGS)
    why = f"{found[0][1]} is outside /usr, which rooms do not show" if found else "there is none in PATH"
    raise SandboxError(f"C++ programs need a compiler: {why}.", "Install one, e.g. `apt install g++`.")


def compiled(source: bytes, box: Sandbox) -> bytes:
    """The binary of a source, from the cache where it was compiled before.

    Raises `NotCompiled` for a bad source, `SandboxError` where there is no compiler or the sandbox fails.
    """
    used = compiler()
    folder = cache_folder()
    kept = Artifacts(folder / "compiled", KEPT_BYTES) if folder else None
    key = hashlib.sha256(repr((used.path, used.version, used.flags, source)).encode()).hexdigest()
    binary = kept.get(key) if kept else None
    if binary is None:
        shows = box.name != "none" and _INCLUDES_EVERYTHING.search(source)  # a room without walls shows no folders
        headers = _headers(used, folder) if folder and shows else None
        binary = _compiled(source, box, used, headers)
        if kept:
            kept.put(key, binary)
    return binary


def _compiled(source: bytes, box: Sandbox, used: Compiler, headers: Path | None) -> bytes:
    furniture = Furniture(read_only={HEADERS: headers}) if headers else None
    with box.open(LIMITS, furniture) as room:
        room.write("main.cpp", source)
        shown = (f"-I{HEADERS}",) if headers else ()
        done = room.run((used.path, *used.flags, *shown, "-o", "main", "main.cpp"))
        if done.status == "ok":
            done = room.run(("cat", "main"))
    if done.status != "ok":
        raise NotCompiled(replace(done, stdout=b"", stderr=done.stderr[:SAID]))
    return done.stdout


def _headers(used: Compiler, cache: Path) -> Path | None:
    """A folder with `bits/stdc++.h` in precompiled form, 100 MB, which saves a second of every such program.

    None where the compiler is none that finds one by its name, or it cannot be made.
    """
    if used.flags is not FLAGS:
        return None
    key = hashlib.sha256(repr((used.path, used.version, used.flags)).encode()).hexdigest()[:16]
    folder = cache / "headers" / key
    precompiled = folder / f"{EVERYTHING}.gch"
    try:
        if not precompiled.exists():
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with locked(folder):
                if not precompiled.exists():
                    _precompile(used, folder, precompiled)
    except (OSError, subprocess.SubprocessError):
        return None
    return folder


def _precompile(used: Compiler, folder: Path, out: Path) -> None:
    """Outside of any room: nothing of it comes from a program. Raises `OSError` and `SubprocessError`."""
    header = folder / EVERYTHING
    header.parent.mkdir(exist_ok=True)
    header.write_text(_OURS)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".")
    os.close(descriptor)
    try:
        command = [used.path, *used.flags, "-x", "c++-header", str(header), "-o", temporary]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
    finally:
        Path(temporary).unlink(missing_ok=True)
