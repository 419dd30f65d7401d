"""Kept files are whole, bounded in size, and of this user alone."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from cascade.sandbox.artifacts import Artifacts, cache_folder


def _put_many(folder: Path) -> int:
    kept = Artifacts(folder, 20_000)
    for number in range(60):
        kept.put(f"{number % 30}", bytes([number % 30]) * 1000)
    return sum((found := kept.get(str(n))) is not None and found != bytes([n]) * 1000 for n in range(30))


def test_what_was_put_is_found_and_nothing_else(tmp_path: Path) -> None:
    kept = Artifacts(tmp_path / "a", 10_000)
    assert kept.get("key") is None
    kept.put("key", b"data")
    assert (kept.get("key"), kept.get("other")) == (b"data", None)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    kept = Artifacts(tmp_path, 3_200)
    for number in range(3):
        kept.put(str(number), bytes(1000))
        os.utime(tmp_path / str(number), (number, number))
    assert kept.get("0") == bytes(1000)  # used now
    kept.put("3", bytes(1000))
    assert [number for number in range(4) if kept.get(str(number))] == [0, 2, 3]
    kept.put("huge", bytes(4_000))
    assert kept.get("huge") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage) -> None:
    kept = Artifacts(tmp_path, 10_000)
    kept.put("key", b"data")
    (tmp_path / "key").write_bytes(damage((tmp_path / "key").read_bytes()))
    assert kept.get("key") is None


def test_several_processes_share_a_folder_without_half_files_or_rubbish(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as processes:
        assert list(processes.map(_put_many, [tmp_path] * 3)) == [0, 0, 0]
    left = list(tmp_path.iterdir())
    assert sum(file.stat().st_size for file in left) <= 20_000
    assert not [file for file in left if file.name.startswith(".")]


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    (tmp_path / "mine").chmod(0o777)
    assert cache_folder() is None
    kept = Artifacts(tmp_path / "mine", 1000)
    kept.put("key", b"data")
    assert kept.get("key") is None


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CASCADE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() is None
