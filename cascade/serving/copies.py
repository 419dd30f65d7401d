"""Published weights on disk, by version: what a replica that died is brought up to date from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from cascade.atomic import write_text
from cascade.serving.buckets import Bucket

READY = "READY"
"""Name of the mark that is written last; a folder without it is not whole."""
KEPT = 2


def save_bucket(bucket: Bucket, path: Path) -> Path:
    """The bucket as one safetensors file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in bucket}, path)
    return path


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights the replicas should have, and where on disk they are."""

    load: int  # how often a checkpoint was loaded
    version: int  # what the last publish since then said, 0 before it
    base: Path  # the Hugging Face folder that was loaded
    copy: Path | None = None  # the newest whole copy since then, of this version or an older one
    owner: str = ""  # whose they are: a server that runs already may still have those of an earlier run

    @property
    def label(self) -> str:
        """What servers call them, e.g. "5f3a.1.12"."""
        return f"{self.owner}.{self.load}.{self.version}"

    @property
    def numbers(self) -> tuple[int, int]:
        """(load, version): later weights compare as larger."""
        return self.load, self.version

    def numbers_in(self, label: str) -> tuple[int, int] | None:
        """(load, version) that a label of the same owner says; None for weights that somebody else named."""
        owner, _, numbers = label.partition(".")
        load, _, version = numbers.partition(".")
        ours = owner == self.owner and load.isdigit() and version.isdigit()
        return (int(load), int(version)) if ours else None

    def files(self) -> list[Path] | None:
        """The safetensors files of exactly these weights; None where only older ones are on disk."""
        if self.version == 0:
            return sorted(self.base.glob("*.safetensors"))
        if self.copy is None or self.copy.name != copy_name(self.load, self.version):
            return None
        return sorted(self.copy.glob("*.safetensors"))


def copy_name(load: int, version: int) -> str:
    """The name of a copy's folder, e.g. `v1.000012`."""
    return f"v{load}.{version:06d}"


class CopyWriter:
    """Writes one version, bucket by bucket, under `root`."""

    def __init__(self, root: Path, load: int, version: int) -> None:
        self.folder = root / copy_name(load, version)  # where it will be
        self.buckets = 0
        self._part = root / f".{self.folder.name}"
        shutil.rmtree(self._part, ignore_errors=True)

    def write(self, bucket: Bucket) -> Path:
        """Adds a bucket; returns its file."""
        path = save_bucket(bucket, self._part / f"bucket_{self.buckets:05d}.safetensors")
        self.buckets += 1
        return path

    def commit(self, base: Path) -> Path:
        """Marks the copy as whole, removes all but the newest `KEPT`, and returns its folder.

        With links to the config files of `base` it is a Hugging Face folder, which a server can start from.
        """
        for file in base.glob("*.json"):
            if not file.name.endswith(".index.json"):
                (self._part / file.name).symlink_to(file.resolve())
        write_text(self._part / READY, "")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._part.rename(self.folder)
        others = [folder for folder in self.folder.parent.glob("v*.*") if folder != self.folder]
        whole = sorted((folder for folder in others if (folder / READY).exists()), key=_age)
        for folder in {*others} - {*whole[len(whole) - KEPT + 1 :]}:
            shutil.rmtree(folder)
        return self.folder

    def discard(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self._part, ignore_errors=True)


def _age(folder: Path) -> tuple[int, int]:
    load, _, version = folder.name.removeprefix("v").partition(".")
    return int(load), int(version)
