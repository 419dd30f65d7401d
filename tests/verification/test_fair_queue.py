"""Whose turn it is: calls share workers by the time they take, in chunks that are short whatever a verdict costs."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from cascade.types import Row
from cascade.verification.calls import Item, Waiting
from cascade.verification.costs import PRIOR, Costs
from cascade.verification.fair_queue import AHEAD, CHUNK, CHUNK_CHARACTERS, CHUNK_S, FairQueue, Line
from cascade.verification.outcomes import no_verdict

SLOW_S, QUICK_S = 2.0, 0.001


def items(count: int, characters: int = 1) -> list[Item]:
    row = Row("r/1", "math", "r", {})
    return [Item(row, [], Waiting(), characters) for _ in range(count)]


@pytest.fixture
def queue() -> FairQueue:
    costs = Costs({"slow": 100.0, "quick": 1.0})
    costs.learn("slow", 10, 10 * SLOW_S)
    costs.learn("quick", 100, 100 * QUICK_S)
    return FairQueue(costs)


def served(queue: FairQueue, chunks: int, seconds: dict[str, float]) -> list[tuple[Line, str, int]]:
    found = []
    for _ in range(chunks):
        taken = queue.take()
        assert taken is not None
        found.append((taken.line, taken.environment, len(taken.items)))
        queue.done(taken, len(taken.items) * seconds[taken.environment])
    return found


def test_chunks_are_short_in_time_and_bounded_in_number_and_in_text(queue: FairQueue) -> None:
    line = Line({"slow": CHUNK, "quick": CHUNK, "few": 3})
    queue.put(line, "slow", items(3))
    queue.put(line, "quick", items(100))
    cut = [(name, count) for _, name, count in served(queue, 5, {"slow": SLOW_S, "quick": QUICK_S})]
    assert cut == [("slow", 1)] * 3 + [("quick", CHUNK), ("quick", 36)]
    queue.put(line, "few", items(5))
    queue.put(line, "quick", items(3, characters=CHUNK_CHARACTERS))
    counts = {(name, count) for _, name, count in served(queue, 4, {"few": 0.0, "quick": QUICK_S})}
    assert counts == {("few", 3), ("few", 2), ("quick", 2), ("quick", 1)}


def test_before_its_first_verdict_an_environment_costs_a_share_of_its_deadline_and_then_what_it_takes() -> None:
    costs = Costs({"slow": 120.0})
    assert costs.of("slow") == PRIOR * 120
    assert costs.fit("slow", CHUNK_S) == 1
    for _ in range(100):
        costs.learn("slow", 4, 4 * 0.01)
    assert costs.fit("slow", CHUNK_S) == pytest.approx(50, abs=1)
    for _ in range(100):
        costs.learn("slow", 1, 5.0)
    assert costs.fit("slow", CHUNK_S) == 1


def test_a_call_that_comes_late_with_little_is_served_next(queue: FairQueue) -> None:
    many, few = Line({"slow": 8}), Line({"slow": 8})
    queue.put(many, "slow", items(500))
    served(queue, 20, {"slow": SLOW_S})
    queue.put(few, "slow", items(5))
    order = [line is few for line, _, _ in served(queue, 10, {"slow": SLOW_S})]
    assert sum(order) == 5
    assert order[:2].count(True) >= 1


def test_calls_share_time_and_not_turns(queue: FairQueue) -> None:
    slow, quick = Line({"slow": 1}), Line({"quick": CHUNK})
    queue.put(slow, "slow", items(200))
    queue.put(quick, "quick", items(AHEAD))
    time_s: Counter[bool] = Counter()
    for line, name, count in served(queue, 18, {"slow": SLOW_S, "quick": QUICK_S}):
        time_s[line is slow] += count * (SLOW_S if name == "slow" else QUICK_S)
    assert not quick.items, "1 s of quick verdicts waits for no more than a slow one or two"
    assert time_s[True] <= 3 * SLOW_S


def test_a_call_that_asked_for_nothing_does_not_make_up_for_it(queue: FairQueue) -> None:
    early, busy = Line({"slow": 1}), Line({"slow": 1})
    queue.put(early, "slow", items(1))
    served(queue, 1, {"slow": SLOW_S})
    queue.put(busy, "slow", items(100))
    served(queue, 50, {"slow": SLOW_S})
    queue.put(early, "slow", items(50))
    order = [line is early for line, _, _ in served(queue, 20, {"slow": SLOW_S})]
    assert 8 <= sum(order) <= 12


def test_what_is_settled_meanwhile_is_not_served(queue: FairQueue) -> None:
    line, queued = Line({"quick": CHUNK}), items(10)
    queue.put(line, "quick", queued)
    for item in queued[:9]:
        item.settle([no_verdict("not needed")])
    taken = queue.take()
    assert taken is not None
    assert taken.items == queued[9:]


def test_a_call_waits_while_the_queue_holds_enough_of_it(queue: FairQueue) -> None:
    line = Line({"quick": CHUNK})
    assert queue.room(line)
    queue.put(line, "quick", items(AHEAD))
    assert not queue.room(line)
    waited = threading.Event()
    threading.Thread(target=lambda: (queue.wait_for_room(line), waited.set()), daemon=True).start()
    served(queue, 3, {"quick": QUICK_S})
    assert not waited.wait(0.1)
    served(queue, AHEAD // CHUNK // 2, {"quick": QUICK_S})
    assert waited.wait(5)


def test_closing_frees_workers_and_callers_and_returns_what_was_waiting(queue: FairQueue) -> None:
    line, other = Line({"quick": CHUNK}), FairQueue(Costs({}))
    queued = items(AHEAD)
    queue.put(line, "quick", queued)
    freed: list[object] = []
    threads = [
        threading.Thread(target=lambda: freed.append(queue.wait_for_room(line))),
        threading.Thread(target=lambda: freed.append(other.take())),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert queue.close() == queued
    assert other.close() == []
    for thread in threads:
        thread.join(5)
    assert freed == [None, None]
    assert (queue.take(), queue.put(line, "quick", queued)) == (None, False)
