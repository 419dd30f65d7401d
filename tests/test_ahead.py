"""Batches ahead: which are begun when, with which weights, and what a checkpoint keeps of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from cascade.ahead import BatchesAhead
from cascade.types import Group, Prompt, Row

DEADLINE_S = 20.0


class Bench:
    """Prompts by number, and a sampler that notes which weights it had and waits where it is told to."""

    def __init__(self, ahead: int, last: int = 5) -> None:
        self.published = 0
        self.drawn = 0
        self.sampled_with: dict[int, int] = {}  # step -> version at its beginning
        self.held: dict[int, threading.Event] = {}
        self.started: dict[int, threading.Event] = {step: threading.Event() for step in range(last + 1)}
        self.batches = BatchesAhead(self.draw, self.sample, ahead=ahead, last=last)

    def draw(self) -> list[Prompt]:
        self.drawn += 1
        return [Prompt(Row(f"e/{self.drawn - 1}", "math", "e", {}), (1,))]

    def sample(self, prompts: Sequence[Prompt], step: int) -> list[Group]:
        self.sampled_with[step] = self.published
        self.started[step].set()
        if step in self.held:
            assert self.held[step].wait(DEADLINE_S)
        return [Group(prompt, ()) for prompt in prompts]

    def take(self, step: int) -> str:
        def publish() -> None:
            self.published = step

        (group,) = self.batches.take(step, publish)
        return group.prompt.row.id


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    for event in made.held.values():
        event.set()
    made.batches.close()


@pytest.mark.parametrize("bench", [0, 1, 2], indirect=True)
def test_batches_come_in_the_order_of_their_draws_and_none_beyond_the_last(bench: Bench) -> None:
    assert [bench.take(step) for step in range(6)] == [f"e/{step}" for step in range(6)]
    assert bench.drawn == 6
    assert not bench.batches.busy


@pytest.mark.parametrize("bench", [0], indirect=True)
def test_without_staleness_a_batch_is_sampled_after_the_weights_it_trains_are_published(bench: Bench) -> None:
    for step in range(6):
        bench.take(step)
    assert bench.sampled_with == {step: step for step in range(6)}


@pytest.mark.parametrize("bench", [1], indirect=True)
def test_one_step_off_samples_the_next_batch_while_this_one_trains_with_the_weights_it_trains(bench: Bench) -> None:
    bench.held[2] = threading.Event()
    bench.take(0)
    bench.take(1)  # begins batch 2 and comes back, though it is held: the caller would train now
    assert bench.started[2].wait(DEADLINE_S)
    assert bench.batches.busy
    assert bench.published == 1
    bench.held[2].set()
    bench.take(2)
    assert bench.started[3].wait(DEADLINE_S)
    assert bench.sampled_with == {0: 0, 1: 0, 2: 1, 3: 2}


@pytest.mark.parametrize("bench", [2], indirect=True)
def test_more_staleness_publishes_while_batches_are_in_progress(bench: Bench) -> None:
    bench.held[2] = threading.Event()
    bench.take(0)
    assert bench.started[2].wait(DEADLINE_S)
    bench.take(1)
    assert bench.published == 1
    assert bench.batches.busy  # batch 2 began with version 0 and goes on over the publication
    assert bench.sampled_with[2] == 0


@pytest.mark.parametrize("bench", [2], indirect=True)
def test_what_waits_can_be_kept_and_gone_on_with(bench: Bench) -> None:
    bench.take(0)
    waiting = bench.batches.waiting()
    assert [batch.step for batch in waiting] == [1, 2]
    later = Bench(2)
    later.drawn, later.published = bench.drawn, 1
    later.batches.restore(waiting)
    assert [later.take(step) for step in range(1, 6)] == [f"e/{step}" for step in range(1, 6)]
    assert 1 not in later.sampled_with
    later.batches.close()


@pytest.mark.parametrize("bench", [1], indirect=True)
def test_an_error_of_a_batch_is_raised_where_it_is_taken(bench: Bench) -> None:
    def fail(prompts: Sequence[Prompt], step: int) -> list[Group]:
        raise ValueError(f"step {step}")

    bench.batches._sample = fail
    with pytest.raises(ValueError, match="step 0"):
        bench.take(0)
