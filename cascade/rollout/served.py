"""Rollouts and sequences as requests to a pool of replicas."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from cascade.errors import EngineError
from cascade.rollout.samples import Sample, as_requests
from cascade.rollout.served_routing import ServedRouting
from cascade.serving.client import Continuation, Refused, Sampling, TopLogProbs, Unreachable
from cascade.serving.copies import Weights
from cascade.serving.member import Member
from cascade.serving.pool import Pool
from cascade.serving.scale_gate import ScaleGate
from cascade.types import TrainingSequence

T = TypeVar("T")
SAMPLES_AT_ONCE = 64  # of one request; vLLM takes no more than it runs at once
ABORT_EVERY_S = 0.1


@dataclass(eq=False)
class Call:
    """One call of `extend`: which of its requests are at a replica, and whether it was aborted."""

    ended: bool = False
    flying: dict[str, Member] = field(default_factory=dict)  # by request id


class Requests:
    """Belongs to the pool's event loop."""

    def __init__(self, pool: Pool, stop_ids: Sequence[int], routing: ServedRouting | None = None) -> None:
        """`routing`: where the experts that replicas choose are wanted."""
        self.pool = pool
        self.routing = routing
        self.stop_ids = stop_ids
        self._gate = ScaleGate()
        self._calls: set[Call] = set()
        self._names = (f"{uuid.uuid4().hex[:12]}-{number}" for number in itertools.count())

    async def extend(self, samples: Sequence[Sample], temperature: float, seed: int) -> None:
        """Grows the samples until they end, or until `abort`."""
        call = Call()
        self._calls.add(call)
        try:
            alike = as_requests(samples) if temperature else ([sample] for sample in samples)
            requests = [part for one in alike for part in _parts(one)]
            await all_or_first_error(self._finish(call, request, temperature, seed) for request in requests)
        finally:
            self._calls.remove(call)

    async def score(
        self, sequences: Sequence[TrainingSequence], temperature: float, top_k: int = 0
    ) -> list[list[TopLogProbs]]:
        """The log-prob of every loss token of every sequence, and of the `top_k` likeliest there, nats; else nothing.

        At a temperature other than 1 the replicas scale their logits meanwhile: rollouts in progress are interrupted
        and go on afterwards.
        """
        scale = 1.0 / temperature

        async def one(sequence: TrainingSequence) -> list[TopLogProbs]:
            async def call(member: Member) -> list[TopLogProbs]:
                await self._set_scale(member, scale)
                found = await member.client.score(sequence.token_ids, top_k)
                return [entry if wanted else {} for entry, wanted in zip(found, sequence.loss_mask, strict=True)]

            if not sequence.loss_tokens:
                return [{} for _ in sequence.token_ids]
            answer = await self.pool.request(None, len(sequence.token_ids), call)
            return cast("list[TopLogProbs]", answer)

        async with self._gate.at(scale, self._interrupt if scale != 1.0 else None):
            return await all_or_first_error(one(sequence) for sequence in sequences)

    async def abort(self, deadline_s: float) -> None:
        """Ends the calls of `extend` in progress; returns when they have nothing at a replica any more."""
        calls = list(self._calls)
        for call in calls:
            call.ended = True
        try:
            async with asyncio.timeout(deadline_s):
                while any(call in self._calls for call in calls):
                    await self._interrupt()
                    await asyncio.sleep(ABORT_EVERY_S)
        except TimeoutError as error:
            raise EngineError(
                f"Replicas did not give back aborted requests in {deadline_s:.0f} s.", "See their logs."
            ) from error

    async def _interrupt(self) -> None:
        """Makes all requests return what they have; those that wait for a replica look whether they should go on."""
        self.pool.routing.wake()
        flying = [(member, name) for call in self._calls for name, member in call.flying.items()]
        for member in {member for member, _ in flying}:
            life = member.life
            try:
                await member.client.abort_requests([name for other, name in flying if other is member])
            except Unreachable as error:
                self.pool.distrust(member, life, error)

    async def _finish(self, call: Call, samples: list[Sample], temperature: float, seed: int) -> None:
        """Grows the samples of one request; those that come back interrupted go on by themselves."""
        answers: list[Continuation] | None = None
        while answers is None and not call.ended:
            async with self._gate.at(1.0):
                answers = await self._ask(call, samples, temperature, seed)
        for sample, answer in zip(samples, answers or (), strict=False):
            _add(sample, answer, self.pool.current)
            if self.routing and answer.token_ids:
                sample.record(self.routing.record(answer.routed_experts, len(sample.context())))
        left = [sample for sample in samples if sample.finish_reason == "abort"]
        if left and not call.ended:
            await all_or_first_error(self._finish(call, [sample], temperature, seed) for sample in left)

    async def _ask(self, call: Call, samples: list[Sample], temperature: float, seed: int) -> list[Continuation] | None:
        """What a replica samples; None where the call has ended, or where another logit scale is wanted first."""
        first = samples[0]
        context, left = first.context(), first.limit - first.length
        asked = Sampling(len(samples), left, temperature, first.seed(seed), self.stop_ids)

        async def ask(member: Member) -> list[Continuation]:
            await self._set_scale(member, 1.0)
            weights, name = self.pool.current, next(self._names)
            call.flying[name] = member
            try:
                answers = await member.client.generate(context, asked, name)
            finally:
                del call.flying[name]
            for answer in answers:
                _check(answer, weights, member)
            return answers

        def given_up() -> bool:
            return call.ended or self._gate.contested

        return await self.pool.request(first.rollout.prompt.row.id, len(context) + left * len(samples), ask, given_up)

    async def _set_scale(self, member: Member, scale: float) -> None:
        if member.logit_scale != scale:
            async with member.rescaling:
                if member.logit_scale != scale:
                    await member.client.collective_rpc("set_logit_scale", scale)
                    member.logit_scale = scale


def _parts(request: list[Sample]) -> list[list[Sample]]:
    return [request[start : start + SAMPLES_AT_ONCE] for start in range(0, len(request), SAMPLES_AT_ONCE)]


def _check(answer: Continuation, weights: Weights, member: Member) -> None:
    """Raises `Unreachable` for tokens that are not of the weights at the time of the request, or of later ones."""
    versions = [weights.numbers_in(label) for label, _ in answer.versions]
    if any(version is None or version < weights.numbers for version in versions):
        labels = ", ".join(label for label, _ in answer.versions)
        raise Unreachable(
            f"{member.name} sampled with weights {labels} when {weights.label} were current.", "See its log."
        )
    counts = {len(answer.token_ids), len(answer.log_probs), sum(tokens for _, tokens in answer.versions)}
    if len(counts) > 1 or answer.finish_reason not in ("stop", "length", "abort"):
        raise Refused(
            f"{member.name} sent tokens, log-probs and versions of different lengths, ended by {answer.finish_reason}.",
            "Use the version of vLLM that `cascade doctor` names.",
        )


def _add(sample: Sample, answer: Continuation, weights: Weights) -> None:
    tokens = iter(zip(answer.token_ids, answer.log_probs, strict=True))
    for label, count in answer.versions:
        numbers = weights.numbers_in(label)
        if numbers is None:
            raise ValueError("checked before")
        for token, log_prob in itertools.islice(tokens, count):
            sample.add(token, log_prob, numbers[1])
    sample.finish_reason = cast("Literal['stop', 'length', 'abort']", answer.finish_reason)


async def all_or_first_error(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results in order; at the first error the others are cancelled and it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
