"""The pieces of the pool: what verdicts are known by, how messages travel, what is counted."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence

import pytest

from cascade.environments.attempts import attempt_at
from cascade.types import Attempt, Row, Score, Verdict
from cascade.verification.cache import VerdictCache, key_of
from cascade.verification.frames import Lines, frame, read_frame, write_line, write_within
from cascade.verification.meter import Meter
from cascade.verification.outcomes import REASON, from_plain, plain, shortened

ROW = Row("r/1", "math", "r", {})
RIGHT = [Verdict(Score(1.0))]


def key(*answers: str, **more: object) -> tuple[str, str, bytes]:
    return key_of("r", ROW, [dataclasses.replace(attempt_at(answers), **more)])


@pytest.mark.parametrize(
    "one, other",
    [
        (["ab", "c"], ["a", "bc"]),
        (["a"], ["a", ""]),
        (["<think>a</think>b"], ["b"]),
        (["\ud800"], ["\ud801"]),
    ],
)
def test_different_attempts_have_different_keys(one: Sequence[str], other: Sequence[str]) -> None:
    assert key(*one) != key(*other)
    assert key(*one) == key(*one)


def test_every_field_of_an_attempt_is_in_its_key() -> None:
    changed = {"finished": False, "token_ids": (1, 2), "thinking": True}
    assert {field.name for field in dataclasses.fields(Attempt)} == {*changed, "turns", "reasoning", "answers"}
    assert len({key("a"), *(key("a", **{name: value}) for name, value in changed.items())}) == 4


def test_a_group_is_known_by_all_its_attempts_in_order() -> None:
    a, b = attempt_at(["a"]), attempt_at(["b"])
    assert len({key_of("r", ROW, group) for group in ([a, b], [b, a], [a], [a, b, b])}) == 4


def test_the_cache_forgets_what_was_used_longest_ago_and_keeps_no_failure() -> None:
    cache = VerdictCache(2)
    keys = [key(letter) for letter in "abc"]
    cache.put(keys[0], RIGHT)
    cache.put(keys[1], RIGHT)
    assert cache.get(keys[0]) == RIGHT
    cache.put(keys[2], RIGHT)
    assert [cache.get(each) is not None for each in keys] == [True, False, True]
    cache.put(keys[1], [Verdict(None, "data", "?")])
    assert cache.get(keys[1]) is None
    none = VerdictCache(0)
    none.put(keys[0], RIGHT)
    assert none.get(keys[0]) is None


def test_lines_survive_one_that_a_killed_process_left_unfinished() -> None:
    read, write = os.pipe()
    lines = Lines(read)
    write_line(write, {"before": "\ud800\n"})
    os.write(write, b'[1, "unfini\n')
    write_line(write, [2])
    assert lines.read(1.0) == [{"before": "\ud800\n"}, [2]]
    assert lines.read(0.0) == []
    os.close(write)
    assert lines.read(1.0) is None
    os.close(read)


def test_a_frame_larger_than_the_pipe_arrives_and_one_that_nobody_reads_is_an_error() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    sent = frame(["x" * 3_000_000])
    reader = threading.Thread(target=lambda: received.append(read_frame(read)))
    received: list[object] = []
    reader.start()
    write_within(write, sent, 10.0)
    reader.join(10)
    assert received == [["x" * 3_000_000]]
    with pytest.raises(OSError, match="nothing was read"):
        write_within(write, sent, 0.1)
    os.close(write)
    os.close(read)


def test_verdicts_survive_the_way_and_reasons_are_cut_in_the_middle() -> None:
    masked = Verdict(Score(0.0, {"a": 1.0}, masked=True))
    for verdict in (Verdict(Score(0.5, {"a": 1.0}), wall_s=0.1), masked, Verdict(None, "data", "why\nwhere")):
        assert from_plain(plain(verdict)) == verdict
    long = "begin" + "x" * 10 * REASON + "end"
    assert shortened(long).startswith("begin")
    assert shortened(long).endswith("end")
    assert len(shortened(long)) < REASON + 100


def test_rates_count_only_the_time_in_which_somebody_waited() -> None:
    meter, began = Meter(2), time.monotonic()
    with meter.caller(), meter.caller():
        time.sleep(0.05)
        meter.worked(0.05)
    waited_s = time.monotonic() - began
    time.sleep(0.2)
    meter.count("verdicts", 10)
    measured = meter.read()
    assert 10 / waited_s <= measured["verifiers/per_second"] <= 10 / 0.05
    assert 0.05 / (2 * waited_s) <= measured["verifiers/busy"] <= 0.5
    assert set(meter.read().values()) == {0.0}
