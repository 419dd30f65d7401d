"""Batches of rollouts sampled ahead of training: one loop for every staleness.

The batch of step k is begun when step k - n is about to train, with the weights that step k - n trains, so that a
rollout is at most n versions old when the policy learns from it. With n = 0 sampling and training take turns. With
n = 1 they overlap, and weights are published between two batches: the run is as reproducible as with 0. With more,
several batches are in progress at once and weights are published in mid-rollout. Batches are trained on in the order
in which they were begun, never short answers first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cascade import parallel
from cascade.types import Group, Prompt, SampledBatch

Draw = Callable[[], list[Prompt]]
"""The prompts of the next batch, the same on every process."""
Sample = Callable[[Sequence[Prompt], int], list[Group]]
"""This process's prompts of a step -> their scored groups. Called in threads: it may talk to no other process."""


class BatchesAhead:
    """Samples the batches of steps up to `last`, at most `ahead` of them before their turn."""

    def __init__(self, draw: Draw, sample: Sample, *, ahead: int, last: int) -> None:
        self._draw = draw
        self._sample = sample
        self._ahead = ahead
        self._last = last
        self._begun: dict[int, Future[list[Group]]] = {}  # step -> this process's share
        self._threads = ThreadPoolExecutor(max_workers=max(1, ahead), thread_name_prefix="rollouts")

    def take(self, step: int, publish: Callable[[], None]) -> list[Group]:
        """The groups of `step`, by all processes. Collective.

        `publish` hands the policy's weights to the engine; it is called once, where this step's place for it is.
        """
        if self._ahead == 0:
            publish()
            return parallel.collect(self._sample(parallel.spread(self._draw()), step))
        self._begin(step)
        groups = self._begun.pop(step).result()
        publish()
        for later in range(step + 1, step + self._ahead + 1):
            self._begin(later)
        return parallel.collect(groups)

    def waiting(self) -> list[SampledBatch]:
        """The batches ahead, after waiting for those in progress. Collective."""
        return [SampledBatch(step, parallel.collect(future.result())) for step, future in sorted(self._begun.items())]

    def restore(self, batches: Sequence[SampledBatch]) -> None:
        """Go on with the batches that `waiting` gave."""
        for batch in batches:
            share: Future[list[Group]] = Future()
            share.set_result(parallel.spread(list(batch.groups)))
            self._begun[batch.step] = share

    @property
    def busy(self) -> bool:
        """Whether a batch is in progress."""
        return any(not share.done() for share in self._begun.values())

    def close(self) -> None:
        """Waits for what is in progress and throws it away."""
        self._threads.shutdown(cancel_futures=True)
        self._begun.clear()

    def _begin(self, step: int) -> None:
        if step in self._begun or step > self._last:
            return
        share = parallel.spread(self._draw())
        self._begun[step] = self._threads.submit(self._sample, share, step)
