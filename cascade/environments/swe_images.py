"""Tasks whose code is in a container image, in rooms of Apptainer. Written by its documentation, and not run.

The images are those of SWE-bench, SWE-Gym, SWE-smith and R2E-Gym: the repository in `/testbed`, beside it the Python
environment that it is installed in. What is known of a repository outside of rooms, as which files are its source,
is read from a copy that is taken out of the image once.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from cascade.environments.swe_repository import cache_folder, made_once
from cascade.environments.swe_room import REPOSITORY
from cascade.environments.swe_rows import SweTask
from cascade.errors import ConfigError, DataError, SandboxError
from cascade.sandbox.apptainer import START_S, Apptainer, found
from cascade.sandbox.limits import Limits
from cascade.sandbox.ports import Furniture, Room, Sandbox

PATH = (
    "/opt/miniconda3/envs/testbed/bin:/testbed/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
ARCHIVE = "repository.tar"
OLDEST_PYTHON = "3, 9"  # that the program which runs the tests understands
_IS_YOUNG = f"import sys, pytest; sys.exit(sys.version_info < ({OLDEST_PYTHON}))"


@dataclass(frozen=True)
class ImageRooms:
    """A back end whose rooms show an image's own repository, without its history, and its own Python and pytest."""

    box: Apptainer

    @property
    def name(self) -> str:
        return self.box.name

    def open(self, limits: Limits, furniture: Furniture | None = None) -> Room:
        """See `Sandbox.open`. The image has the furniture itself. Raises `SandboxError` for too old a Python."""
        room = self.box.open(limits, Furniture(variables={"PATH": PATH, "PYTHONHASHSEED": "0"}))
        try:
            if room.run(("python", "-c", _IS_YOUNG)).status != "ok":
                wanted = OLDEST_PYTHON.replace(", ", ".")
                raise SandboxError(f"{self.box.image} has no Python {wanted} with pytest.", "Leave the row out.")
            room.run(("rm", "-rf", f"{REPOSITORY}/.git"), folder="/")  # it may hold the repair
        except BaseException:
            room.close()
            raise
        return room


def in_image(task: SweTask, images: str) -> tuple[Sandbox, SweTask]:
    """Where a task's rooms are opened, and the task with the copy of its repository.

    Args:
        images: path of an image, with `{instance_id}` for the task's; `""`: as the row says, fetched by Apptainer.

    Raises:
        DataError: its tests are not told apart by pytest's names, as R2E-Gym's are not.
        SandboxError: Apptainer is not here, the image cannot be read, or the row names none.
        ConfigError: `images` cannot be filled in.
    """
    if task.test_command:
        said = " ".join(task.test_command)
        raise DataError(f"The tests of {task.instance_id} are run by `{said}`.", "Give pytest's names of tests.")
    box = found(image_of(task, images))
    return ImageRooms(box), replace(task, repository=str(_copied(box)))


def image_of(task: SweTask, images: str) -> str:
    """The image of a task in words that Apptainer knows."""
    if images:
        try:
            return images.format(instance_id=task.instance_id)
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"images is {images!r}: {error}.", "Name files, e.g. /images/{instance_id}.sif."
            ) from None
    if not task.image:
        raise SandboxError(f"{task.instance_id} names no image.", "Use sandbox=bwrap, or give the row an `image`.")
    is_file = "://" in task.image or task.image.endswith(".sif") or task.image.startswith("/")
    return task.image if is_file else f"docker://{task.image}"


def copy_words(box: Apptainer) -> list[str]:
    """The command that writes the repository of an image to stdout, as a tar archive."""
    tar = ["tar", "-C", "/", "--exclude=.git", "-cf", "-", REPOSITORY.strip("/")]
    return [box.binary, "--silent", "exec", "--cleanenv", "--no-mount", "home,tmp,cwd,bind-paths", box.image, *tar]


def _copied(box: Apptainer) -> Path:
    """An archive of an image's repository, made once."""
    named = hashlib.sha256(box.image.encode()).hexdigest()[:32]

    def fill(made: Path) -> Path:
        folder = made / "copied"
        folder.mkdir()
        with (folder / ARCHIVE).open("wb") as file:
            words = copy_words(box)
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, timeout=START_S)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxError(f"{box.image} gives no {REPOSITORY}: {said}", "Fetch the image by hand.")
        return folder

    return made_once(cache_folder() / "images" / named, fill) / ARCHIVE
