"""Writing so that a reader never sees half a file, whenever the writer is killed: temporary name, sync, rename."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import cast

COMPLETE = "COMPLETE"
"""Name of the marker that is written last into a folder; a folder without it is half written."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; synced and renamed to `path` at the end, removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 text atomically; a lone surrogate becomes `?`."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: Path, obj: object) -> None:
    """Replace `path` by indented JSON atomically; see `json_text` for what may be in it."""
    write_text(path, json_text(obj, indent=2) + "\n")


def json_text(obj: object, indent: int | None = None) -> str:
    """Valid JSON of plain objects, dataclasses and paths; NaN and infinities become null. Else raises `TypeError`."""
    return json.dumps(_plain(obj), indent=indent, allow_nan=False)


def commit_folder(tmp: Path, final: Path) -> None:
    """Make `tmp` the folder `final`: sync its files, write the COMPLETE marker, rename; an older `final` is replaced.

    Raises `FileNotFoundError` when there is no `tmp`.
    """
    _sync(tmp)
    for folder, _, names in os.walk(tmp):
        for name in names:
            _sync(Path(folder) / name)
        _sync(Path(folder))
    write_text(tmp / COMPLETE, "")
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)  # between the two renames there is no folder: a reader takes the work as not done
    final.parent.mkdir(parents=True, exist_ok=True)
    tmp.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether `commit_folder` finished this folder."""
    return (folder / COMPLETE).is_file()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(obj: object) -> object:
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: _plain(getattr(obj, f.name)) for f in fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in cast("Mapping[object, object]", obj).items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(item) for item in obj]
    return str(obj) if isinstance(obj, Path) else obj
