"""Files that are known by what they were made from, kept on disk and shared by the processes of a user."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """`$CASCADE_CACHE`, else `cascade` in `$XDG_CACHE_HOME` or `~/.cache`: made where it is missing.

    None where there is no home, where it cannot be written, or where others can write it too: what lies in it is run.
    """
    named = os.environ.get("CASCADE_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or (Path("~/.cache").expanduser() if os.environ.get("HOME") else None)
    if not named and not caches:
        return None
    folder = Path(named) if named else Path(caches or "") / "cascade"
    return folder if _own(folder) else None


class Artifacts:
    """At most `most_bytes` of files by key, those used last. Any number of processes may share one folder.

    A file appears whole or not at all, and begins with a digest of itself: a damaged one is as good as none.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def get(self, key: str) -> bytes | None:
        """What is known by `key`."""
        path = self.folder / key
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            return None
        with suppress(OSError):
            os.utime(path)  # its last use
        return data[DIGEST:]

    def put(self, key: str, data: bytes) -> None:
        """Keeps `data`, where there is room for it and the disk takes it."""
        if len(data) + DIGEST > self.most_bytes or not _own(self.folder):
            return
        with suppress(OSError):
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                Path(temporary).replace(self.folder / key)
            finally:
                Path(temporary).unlink(missing_ok=True)
            self._prune()

    def _prune(self) -> None:
        """Forgets what was not used for longest, until the rest is small enough."""
        with os.scandir(self.folder) as entries:
            known = [(found.st_mtime, found.st_size, entry.path) for entry in entries if (found := _status(entry))]
        left = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if left <= self.most_bytes:
                return
            Path(path).unlink(missing_ok=True)
            left -= size


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among all processes that lock this folder. Raises `OSError` where it cannot be opened."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _own(folder: Path) -> bool:
    """Whether a folder is there, or could be made, which this user can write and no other."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return found.st_uid == os.geteuid() and not found.st_mode & others and os.access(folder, os.W_OK)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what another process has removed meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None
