"""From a repository in a folder or archive to a folder that any number of rooms can lay a copy-on-write layer over.

It is made once a machine, in a cache, and never written again: every room, whatever it does, leaves it as it was.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cascade.environments.patches import Changes, PatchError, apply_diff
from cascade.environments.swe_rows import SweTask
from cascade.errors import ConfigError, DataError
from cascade.sandbox.identity import outside_id

MAX_BYTES = 2 * 2**30
MAX_FILES = 200_000
LEFT_OUT = (".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".tox", ".venv")
"""What may hold the repair (a history does), or is made anew."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A repository as a task begins: the unchanged `folder`, and what the task changes in it beforehand."""

    folder: Path
    changes: Mapping[str, bytes | None] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        """A file by its path in the repository; None where there is none, or what it is leads outside."""
        if path in self.changes:
            return self.changes[path]
        return self._original(path)

    def files(self) -> list[str]:
        """All paths of files, sorted."""
        gone = {path for path, text in self.changes.items() if text is None}
        return sorted(({*paths_below(self.folder)} - gone) | {path for path in self.changes if path not in gone})

    def _original(self, path: str) -> bytes | None:
        try:
            found = (self.folder / path).resolve()
            if found.is_relative_to(self.folder.resolve()) and found.is_file():
                return found.read_bytes()
        except (OSError, ValueError):
            pass
        return None


def prepare(task: SweTask, cache: Path | None = None) -> Prepared:
    """The repository of a task, with `setup_patch` applied in memory: rooms get it as files, see `Prepared.changes`.

    So tasks of one repository share one folder, and 200 of them cost no more than one.

    Args:
        cache: where folders are kept; default: `cache_folder()`.

    Raises:
        DataError: the task has no repository on this machine, it cannot be read, or `setup_patch` does not fit.
    """
    if not task.repository:
        raise DataError(f"{task.instance_id} has no repository here.", f"Its code is in the image {task.image}.")
    folder = base_folder(Path(task.repository), cache)
    changes: Changes = {}
    if task.setup_patch:
        try:
            changes = apply_diff(task.setup_patch, Prepared(folder).read)
        except PatchError as error:
            raise DataError(f"The `setup_patch` of {task.instance_id} does not fit: {error}.", "Repair it.") from None
    return Prepared(folder, changes)


def cache_folder() -> Path:
    """`$CASCADE_CACHE`, else `cascade-<user>` among the temporary files: rooms' programs must be able to reach it."""
    chosen = os.environ.get("CASCADE_CACHE")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"cascade-{os.geteuid()}"


@functools.lru_cache(maxsize=1024)
def base_folder(source: Path, cache: Path | None = None) -> Path:
    """The unchanged folder of a repository, made where it is not there yet; a process looks at a source once.

    An archive with one folder at its top, as source distributions are, is that folder. `LEFT_OUT` is left out.

    Raises:
        DataError: the source is missing, larger than `MAX_BYTES` or `MAX_FILES`, or holds what is not a file, a folder
            or a link inside.
    """
    if not source.exists():
        raise DataError(f"There is no repository at {source}.", "Correct `repository`.")

    def fill(made: Path) -> Path:
        tree = _filled(source, made / "tree")
        _hand_over(source, tree)
        return tree

    return made_once((cache or cache_folder()) / "repositories" / f"{_digest(source)}-{outside_id()}", fill)


def made_once(final: Path, fill: Callable[[Path], Path]) -> Path:
    """A folder of the cache: where it is not there yet, what `fill` makes in a new folder, and returns.

    Any number of processes may ask at once: one makes it, and nobody sees half of it.
    """
    root = _own_folder(final.parent)
    if final.is_dir():
        return final
    with _locked(root / f".{final.name}.lock"):
        if not final.is_dir():
            made = Path(tempfile.mkdtemp(prefix=".making-", dir=root))
            try:
                fill(made).rename(final)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return final


@functools.lru_cache(maxsize=256)
def paths_below(folder: Path) -> tuple[str, ...]:
    """Paths of all files of an unchanged folder, as they are written in a repository."""
    found = []
    for parent, _, files in os.walk(folder):
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in files]
    return tuple(sorted(found))


def _own_folder(path: Path) -> Path:
    """The folder, made if it is not there. Raises `ConfigError` for one that somebody else could have filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o755, exist_ok=True)
    found, above = path.lstat(), path.parent.lstat()
    ours = found.st_uid == os.geteuid() and above.st_uid in (os.geteuid(), 0)
    if not stat.S_ISDIR(found.st_mode) or not ours:
        raise ConfigError(f"{path} belongs to somebody else.", "Name another folder in CASCADE_CACHE.")
    return path


def _digest(source: Path) -> str:
    """What is in an archive, or in the files of a folder, e.g. `5f0c...`."""
    found = hashlib.sha256()
    if source.is_file():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    for path in _within(source):
        place = source / path
        shown = place.readlink().as_posix().encode() if place.is_symlink() else place.read_bytes()
        mode = stat.S_IFMT(place.lstat().st_mode) | place.lstat().st_mode & 0o100
        found.update(f"{path}\0{mode}\0{len(shown)}\0".encode("utf-8", "surrogateescape") + shown)
    return found.hexdigest()[:32]


def _within(source: Path) -> list[str]:
    """The paths of a folder that are taken over. Raises `DataError` for too many, too much, or no plain files."""
    paths, size = [], 0
    for parent, names, files in os.walk(source):
        names[:] = sorted(name for name in names if name not in LEFT_OUT)
        links = [name for name in names if (Path(parent) / name).is_symlink()]
        for name in [*links, *sorted(files)]:
            place = Path(parent) / name
            mode = place.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise DataError(f"{place} is neither a file nor a link.", "Leave it out.")
            size += place.lstat().st_size
            paths.append(place.relative_to(source).as_posix())
            _small_enough(source, size, len(paths))
    return paths


def _small_enough(source: Path, size: int, count: int) -> None:
    if size > MAX_BYTES or count > MAX_FILES:
        limits = f"{MAX_BYTES // 2**20} MiB or {MAX_FILES} files"
        raise DataError(f"{source} has more than {limits}.", "Give the repository alone.")


def _filled(source: Path, tree: Path) -> Path:
    """Copies or unpacks a source into a new folder; the repository in it."""
    tree.mkdir()
    if source.is_file():
        _unpack(source, tree)
        entries = list(tree.iterdir())
        alone = len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink()
        return entries[0] if alone else tree
    for path in _within(source):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / path, tree / path, follow_symlinks=False)
    return tree


def _hand_over(source: Path, tree: Path) -> None:
    """Everything to who writes in rooms, readable by all. Raises `DataError` for a link that leads outside."""
    root, owner = tree.resolve(), outside_id()
    for parent, names, files in os.walk(tree):
        for name in [".", *names, *files]:
            place = Path(parent) / name
            if place.is_symlink():
                if not place.resolve().is_relative_to(root):
                    raise DataError(f"{source}: the link {place.relative_to(tree)} leads outside.", "Leave it out.")
            else:
                place.chmod(0o755 if place.is_dir() or place.stat().st_mode & 0o100 else 0o644)
            if owner != os.geteuid():
                os.lchown(place, owner, owner)


def _unpack(archive: Path, tree: Path) -> None:
    """Members one by one, so that none is written before it is known to stay inside and to be of a size."""
    try:
        with tarfile.open(archive) as opened:
            size = 0
            for count, member in enumerate(opened, 1):
                if set(PurePosixPath(member.name).parts) & {*LEFT_OUT}:
                    continue
                size += member.size
                _small_enough(archive, size, count)
                if member.name.startswith("/"):
                    raise DataError(f"{archive}: {member.name[:80]} leads outside.", "Leave it out.")
                opened.extract(member, tree, filter="data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}.", "Give a .tar.gz of plain files.") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is free."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
