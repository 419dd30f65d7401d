"""Tasks in container images: which image, which commands, and what is refused; no image is run here."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from cascade.environments.swe_agentic import SweAgentic
from cascade.environments.swe_images import PATH, ImageRooms, copy_words, image_of, in_image
from cascade.environments.swe_rows import SweTask
from cascade.errors import ConfigError, DataError, FailureKind, SandboxError, VerifierFailure
from cascade.sandbox.apptainer import Apptainer
from cascade.sandbox.limits import Limits
from cascade.types import Row

TASK = SweTask(instance_id="a__b-1", problem_statement="x", fail_to_pass=("t.py::t",), image="swebench/x:latest")


@pytest.mark.parametrize(
    ("image", "images", "expected"),
    [
        ("swebench/x:latest", "", "docker://swebench/x:latest"), ("docker://x", "", "docker://x"),
        ("/images/x.sif", "", "/images/x.sif"), ("x.sif", "", "x.sif"), ("oras://x/y", "", "oras://x/y"),
        ("swebench/x", "/images/{instance_id}.sif", "/images/a__b-1.sif"),
    ],
)  # fmt: skip
def test_the_image_of_a_task(image: str, images: str, expected: str) -> None:
    assert image_of(dataclasses.replace(TASK, image=image), images) == expected


def test_a_repository_is_copied_out_of_its_image_without_its_history() -> None:
    assert copy_words(Apptainer("x.sif", "apptainer")) == [
        "apptainer", "--silent", "exec", "--cleanenv", "--no-mount", "home,tmp,cwd,bind-paths", "x.sif",
        "tar", "-C", "/", "--exclude=.git", "-cf", "-", "testbed",
    ]  # fmt: skip


def test_what_cannot_be_opened_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="instance_id"):
        image_of(TASK, "/images/{name}.sif")
    with pytest.raises(SandboxError, match="names no image"):
        image_of(dataclasses.replace(TASK, image=""), "")
    with pytest.raises(DataError, match=r"run_tests\.sh"):
        in_image(dataclasses.replace(TASK, test_command=("bash", "run_tests.sh")), "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="no Apptainer here"):
        in_image(TASK, "")
    environment = SweAgentic(sandbox="apptainer")
    with pytest.raises(VerifierFailure) as raised:
        environment.score(Row("x", "swe", "swe_agentic", TASK.as_data()), "done")
    assert raised.value.kind is FailureKind.INFRASTRUCTURE


def test_a_room_has_the_images_own_python_and_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "apptainer"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    rooms = ImageRooms(Apptainer("x.sif", str(program)))
    rooms.open(Limits()).close()
    told = (tmp_path / "told").read_text()
    assert f"PATH={PATH} PYTHONHASHSEED=0 python -c import sys, pytest" in told
    assert "rm -rf /testbed/.git" in told
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\ncase "$*" in *"import sys"*) exit 1;; esac\n')
    with pytest.raises(SandboxError, match=r"no Python 3\.9"):
        rooms.open(Limits())
    assert (tmp_path / "told").read_text().splitlines()[-1].startswith("--silent instance stop")
