"""Rows from files or the Hugging Face hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, NoReturn, cast

from cascade.data.conversations import Conversation, RawText, conversation_of
from cascade.errors import DataError

__all__ = ["Conversation", "NumberedRow", "RawText", "conversation_of", "fingerprint", "load_numbered", "load_rows"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_SPLIT_PREFIXES = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation"}
_SPLIT_PREFIXES |= {"test": "test"}


NumberedRow = tuple[str, dict[str, Any] | None]
"""Where a row stands and what it is, e.g. `("17", {...})`: line or row number; None where it is no JSON object."""


def load_rows(source: str, *, split: str | None = None) -> list[dict[str, Any]]:
    """All rows of a local file, a local folder or a hub data set, in order.

    Local files are `.jsonl`, `.jsonl.gz`, `.json` (an array of objects) or `.parquet`; a folder is all such files in
    it, sorted by path, or those whose name begins with `split`. Anything that is no local path is a hub id, of which
    `split` is `train` unless given.

    Raises `DataError` for a source that is not there or not readable, for malformed lines (with their numbers), and
    for a folder of several splits when none is named.
    """
    path = Path(source).expanduser()
    if path.is_file() and split is not None:
        raise DataError(f"{source} is one file and has no split {split!r}.", "Name the file of the split itself.")
    rows = load_numbered(source, split=split)
    malformed = [number for number, row in rows if row is None]
    if malformed:
        shown = ", ".join(malformed[:20]) + (f" and {len(malformed) - 20} more" if malformed[20:] else "")
        raise DataError(f"{source} has lines that are not JSON objects: {shown}.", "Repair or remove these lines.")
    return [row for _, row in rows if row is not None]


def load_numbered(source: str, *, split: str | None = None) -> list[NumberedRow]:
    """What `load_rows` reads, with the number of every line or row, and None for lines that are no JSON objects.

    A file is read whole whatever `split` says. A hub id may have `:configuration` behind it, and then `@split`, which
    comes before `split`: IFEval's only split, for one, is `train`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = _files_of(path, split)
        return [(f"{file.relative_to(path)}:{number}", row) for file in files for number, row in _read(file)]
    if path.is_file():
        return [(str(number), row) for number, row in _read(path)]
    if source.endswith(SUFFIXES) or source.startswith((".", "/", "~")):
        raise DataError(f"There is no file or folder {source}.", "Check the path and the working folder.")
    return [(str(number), row) for number, row in enumerate(_from_hub(source, split or "train"), start=1)]


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256, as hex, of the rows as canonical JSON, one a line: depends on their order, not on that of their keys.

    Raises `DataError` for a value that has no JSON form; dates count as ISO 8601 and bytes as hex.
    """
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        try:
            line = json.dumps(dict(row), sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Row {index} cannot be fingerprinted: {error}.", "Keep plain JSON values in rows."
            ) from error
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _files_of(folder: Path, split: str | None) -> list[Path]:
    """The data files of a folder that belong to a split, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if split is not None:
        files = [file for file in files if _split_of(file) == _SPLIT_PREFIXES.get(split, split)]
    elif len({_split_of(file) for file in files}) > 1:
        raise DataError(f"The folder {folder} holds several splits.", "Name one with `split`, or name one file.")
    if not files:
        wanted = f" of split {split!r}" if split else ""
        raise DataError(f"The folder {folder} has no data files{wanted}.", f"Put {', '.join(SUFFIXES)} files there.")
    return files


def _split_of(file: Path) -> str:
    """`train-00000-of-00002.parquet` -> `train`; a name without a known split is `train` too, as on the hub."""
    word = file.name.partition(".")[0].partition("-")[0].partition("_")[0]
    return _SPLIT_PREFIXES.get(word, "train")


def _read(file: Path) -> list[tuple[int, dict[str, Any] | None]]:
    """Number and row of everything in a file; None for a line that is no JSON object."""
    if file.name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        try:
            return list(enumerate(parquet.read_table(file).to_pylist(), start=1))
        except pyarrow.ArrowException as error:
            raise _unreadable(file, error) from error
    try:
        content = gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
        if not file.name.endswith(".json"):
            return _json_lines(content)
        rows = json.loads(content, parse_constant=_refuse_constant)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} is not a JSON array of objects.", "Write one, or one object a line as .jsonl.")
    return list(enumerate(rows, start=1))


def _json_lines(content: bytes) -> list[tuple[int, dict[str, Any] | None]]:
    """One JSON object a line; blank lines are skipped."""
    rows: list[tuple[int, dict[str, Any] | None]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            row = None
        rows.append((number, row if isinstance(row, dict) else None))
    return rows


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unreadable(file: Path, error: BaseException) -> DataError:
    return DataError(f"{file} cannot be read: {error}.", "Check that the file is complete and of the type it is named.")


def _from_hub(source: str, split: str) -> list[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    address, _, own_split = source.partition("@")
    name, _, configuration = address.partition(":")
    split = own_split or split
    try:
        loaded = datasets.load_dataset(name, *([configuration] if configuration else []), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"The hub data set {source!r} with split {split!r} cannot be loaded: {error}.",
            "Check the id, the split and the network, or give a local path.",
        ) from error
    return [dict(cast(Mapping[str, Any], row)) for row in loaded]


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (date, time)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
