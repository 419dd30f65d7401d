"""What the cache of replies keeps, and what becomes of it when its file cannot be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cascade.errors import ConfigError
from cascade.judging.cache import FileCache, MemoryCache
from cascade.judging.endpoint import Answer

ANSWER = Answer('{"score_1": 4} \n é', 12, 3)


def test_a_file_keeps_replies_over_openings(tmp_path: Path) -> None:
    first = FileCache(str(tmp_path / "replies.sqlite"))
    first.put("a", ANSWER)
    first.close()
    again = FileCache(str(tmp_path / "replies.sqlite"))
    assert again.get("a") == ANSWER
    assert again.get("b") is None


def test_memory_keeps_the_latest_used() -> None:
    cache = MemoryCache(size=2)
    cache.put("a", ANSWER)
    cache.put("b", ANSWER)
    cache.get("a")
    cache.put("c", ANSWER)
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        FileCache(str(tmp_path / "notes.txt"))


def test_a_file_that_another_process_holds_costs_a_count_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.judging.cache.LOCK_TIMEOUT_S", 0.1)
    cache = FileCache(str(tmp_path / "replies.sqlite"))
    holder = sqlite3.connect(tmp_path / "replies.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    cache.put("a", ANSWER)
    assert cache.get("a") is None
    assert cache.errors == 2
    holder.execute("ROLLBACK")
    cache.put("a", ANSWER)
    assert cache.get("a") == ANSWER


def test_a_reply_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    cache = FileCache(str(tmp_path / "replies.sqlite"))
    cache.put("a", ANSWER)
    sqlite3.connect(tmp_path / "replies.sqlite", isolation_level=None).execute("UPDATE replies SET reply = '[1, '")
    assert cache.get("a") is None
    assert cache.errors == 1
