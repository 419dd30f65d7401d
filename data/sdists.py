"""Source distributions that are downloaded by hash, and repository archives of the same bytes on every machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from cascade.atomic import atomic
from cascade.errors import DataError

PIP_S = 600.0
LEFT_OUT = ("__pycache__", ".git")


def downloaded_sdist(package: str, sha256: str, folder: Path) -> Path:
    """The source distribution of a package as `name==version`, from `folder`, else by pip. Raises `DataError`."""
    final = folder / f"{package.replace('==', '-')}.tar.gz"
    if not final.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            found = _by_pip(package, sha256, Path(temporary))
            with atomic(final) as partial:
                partial.write_bytes(found.read_bytes())
    if hashlib.sha256(final.read_bytes()).hexdigest() != sha256:
        raise DataError(f"{final} is not the {package} that is pinned.", "Delete it, so that it is downloaded.")
    return final


def _by_pip(package: str, sha256: str, folder: Path) -> Path:
    pins, out = folder / "pins.txt", folder / "out"
    pins.write_text(f"{package} --hash=sha256:{sha256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--require-hashes"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(out), "--requirement", str(pins)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PIP_S,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"pip did not download {package} within {PIP_S:g} s.", "Check the network.") from None
    archives = list(out.glob("*.tar.gz"))
    if done.returncode or not archives:
        raise DataError(
            f"pip cannot download {package}: {done.stderr.strip()[-500:]}",
            "Check the network, or put the source distribution into the folder `sdists` of --offline-cache.",
        )
    return archives[0]


def write_repository(sdist: Path, out: Path) -> None:
    """The files of a source distribution as an archive whose bytes follow from them alone.

    Sorted, of time 0, of user 0, modes 644 and 755; links and compiled files are left out. Raises `DataError`.
    """
    files: dict[str, tuple[bytes, bool]] = {}
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if {*LEFT_OUT, ".."} & {*place.parts} or place.is_absolute() or place.suffix == ".pyc":
                    continue
                if member.isreg() and (opened := archive.extractfile(member)):
                    files[str(place)] = opened.read(), bool(member.mode & 0o100)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{sdist} cannot be read: {error}.", "Delete it, so that it is downloaded again.") from None
    with atomic(out) as partial:
        partial.write_bytes(_packed(files))


def _packed(files: dict[str, tuple[bytes, bool]]) -> bytes:
    """Path -> content and whether it is executable, as a `.tar.gz`."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as outer,
        tarfile.open(fileobj=outer, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            content, executable = files[name]
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o755 if executable else 0o644, 0
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()
