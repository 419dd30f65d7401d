"""Writing that a reader never sees half done."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cascade.atomic import COMPLETE, atomic, commit_folder, is_complete, json_text, write_json, write_text
from cascade.types import Score


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyError("killed")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_valid_whatever_the_numbers(tmp_path: Path) -> None:
    write_json(
        tmp_path / "deep" / "a.json", {"a": [math.nan, math.inf, 1.5], "p": tmp_path, "s": Score(1.0, {"x": 2.0})}
    )
    found = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert found == {
        "a": [None, None, 1.5],
        "p": str(tmp_path),
        "s": {"reward": 1.0, "parts": {"x": 2.0}, "masked": False},
    }


def test_an_object_json_cannot_hold_is_an_error() -> None:
    with pytest.raises(TypeError):
        json_text({"a": object()})


def test_text_with_a_lone_surrogate_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "a\ud800b")
    assert (tmp_path / "a.txt").read_text() == "a?b"


def test_a_committed_folder_is_complete_and_replaces_the_older(tmp_path: Path) -> None:
    for content in ("first", "second"):
        tmp = tmp_path / "tmp"
        (tmp / "inner").mkdir(parents=True)
        (tmp / "inner" / "weights").write_text(content)
        assert not is_complete(tmp)
        commit_folder(tmp, tmp_path / "final")
    assert is_complete(tmp_path / "final")
    assert (tmp_path / "final" / "inner" / "weights").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_committing_after_a_kill_between_the_two_renames_works(tmp_path: Path) -> None:
    (tmp_path / ".final.old").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / COMPLETE).touch()
    commit_folder(tmp_path / "tmp", tmp_path / "final")
    assert is_complete(tmp_path / "final")
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_committing_nothing_is_an_error_and_not_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        commit_folder(tmp_path / "tmp", tmp_path / "final")
    assert not (tmp_path / "final").exists()
