"""`cascade sandbox run`: one program, in a sandbox, and what became of it. Imports nothing heavy."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError
from cascade.sandbox.backends import sandbox
from cascade.sandbox.limits import Limits, Outcome
from cascade.sandbox.programs import Language, NotCompiled, Program, installed

SUFFIXES: dict[str, Language] = {".py": "python", ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp"}
SHOWN = ("status", "exit_code", "stdout", "stderr", "wall_s", "cpu_s", "peak_memory_mib")


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs a program and prints its outcome. Raises `ConfigError` and `SandboxError` where there is none."""
    limits = Limits(
        time_s=options.time_limit_s,
        memory_mib=options.memory_mib,
        disk_mib=options.disk_mib,
        processes=options.processes,
        output_kib=options.output_kib,
    )
    file = Path(options.file)
    program = Program(_language(options.language, file), _read(file).decode(errors="surrogateescape"))
    outcome = run_once(program, _input(options.stdin), limits, options.sandbox)
    print(json.dumps(plain(outcome)) if options.json else readable(outcome))


def run_once(program: Program, stdin: bytes, limits: Limits, back_end: str) -> Outcome:
    """The outcome of one run. A source that does not compile is a `runtime_error` with the compiler's messages."""
    box = sandbox(back_end)
    with box.open(limits) as room:
        try:
            command = installed(program, room, box)
        except NotCompiled as error:
            return error.outcome
        return room.run(command, stdin)


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it; what is no UTF-8 in its output is replaced."""
    found = dataclasses.asdict(outcome)
    for stream in ("stdout", "stderr"):
        found[stream] = found[stream].decode(errors="replace")
    for measured in ("wall_s", "cpu_s", "peak_memory_mib"):
        found[measured] = round(found[measured], 6)
    return {name: found[name] for name in SHOWN}


def readable(outcome: Outcome) -> str:
    """An outcome for people."""
    ended = "ended at a limit" if outcome.exit_code is None else f"exit code {outcome.exit_code}"
    used = f"{outcome.wall_s:.3f} s, {outcome.cpu_s:.3f} s of CPU, {outcome.peak_memory_mib:.1f} MiB"
    lines = [f"{outcome.status}  {ended}  {used}"]
    for name, stream in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        if stream:
            lines += [f"--- {name}", _harmless(stream.decode(errors="replace").removesuffix("\n"))]
    return "\n".join(lines)


def _harmless(text: str) -> str:
    """Text without what moves a terminal's cursor or changes its title."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def _language(named: Language | None, file: Path) -> Language:
    """As it was named, or as the file's suffix says. Raises `ConfigError`."""
    language = named or SUFFIXES.get(file.suffix)
    if language is None:
        raise ConfigError(f"{file} does not say its language.", "Add `--language python` or `--language cpp`.")
    return language


def _input(named: str | None) -> bytes:
    if named == "-":
        return sys.stdin.buffer.read()
    return _read(Path(named)) if named else b""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.", "Name a file that can.") from None
