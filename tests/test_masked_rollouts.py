"""A masked rollout is scored and counted, and leaves loss and gradients as they were without its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cascade.algorithms.losses import sequence_weights
from cascade.config import PolicyConfig, RlStage
from cascade.data.mixture import Mixture
from cascade.data.packing import pack
from cascade.metrics import of_groups
from cascade.objectives import micro_batch_loss
from cascade.prompts import PromptSource, Renderer
from cascade.sampling import Collected, Sampler
from cascade.step import Workers, rollout_step, to_sequences
from cascade.types import Group, PackedBatch, Prompt, Rollout, Row, Score, TrainingSequence, VersionSpan
from tests.models.tiny import VOCABULARY, LocalPolicy, build, llama


def stage(**more: Any) -> RlStage:
    return RlStage(mix={"sums": 1.0}, max_steps=1, learning_rate=0.1, **more)


def group(name: str, *scores: Score, tokens: Sequence[int] = (3, 4, 5, 6)) -> Group:
    """Rollouts of different lengths, a score each."""
    prompt = Prompt(Row(f"sums/{name}", "math", "sums", {}), (3, 4))
    rollouts = [
        Rollout(
            prompt,
            index,
            tuple((7 * index + k) % VOCABULARY for k in range(tokens[index])),
            (-0.5,) * tokens[index],
            (VersionSpan(0, tokens[index]),),
            "stop",
            score=score,
        )
        for index, score in enumerate(scores)
    ]
    return Group(prompt, tuple(rollouts))


MASKED = group("a", Score(1.0), Score(0.0), Score(1.0, {}, masked=True), Score(0.0))
PLAIN = group("b", Score(0.0), Score(1.0))


def gradients(sequences: Sequence[TrainingSequence], reduction: str) -> tuple[float, dict[str, torch.Tensor]]:
    policy = LocalPolicy(build(llama()))
    weights = sequence_weights([sequence.loss_tokens for sequence in sequences], cast(Any, reduction))
    loss = torch.zeros(())
    sizes = {"row_tokens": 24, "rows_per_batch": 2, "ranks": 1, "rank": 0, "pad_id": 0}
    for batch in pack(sequences, weights, one_per_row=False, **sizes):
        loss = loss + micro_batch_loss(cast(Any, policy), batch, stage())[0]
    loss.backward()
    return loss.item(), policy.gradients()


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_loss_and_gradients_are_those_of_the_batch_without_the_masked_rollouts_tokens(reduction: str) -> None:
    every = [sequence for one in (MASKED, PLAIN) for sequence in to_sequences(one, stage())]
    assert [sequence.loss_tokens for sequence in every] == [3, 4, 0, 6, 3, 4]
    without = [sequence for number, sequence in enumerate(every) if number != 2]
    loss, found = gradients(every, reduction)
    expected_loss, expected = gradients(without, reduction)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert expected_loss != 0.0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_reward_of_a_masked_rollout_counts_in_the_mean_and_std_of_its_group() -> None:
    unmasked = group("a", *(Score(rollout.reward) for rollout in MASKED.rollouts))
    advantages = [sequence.advantage for sequence in to_sequences(MASKED, stage())]
    assert advantages == [sequence.advantage for sequence in to_sequences(unmasked, stage())]


def test_masked_rollouts_are_counted_in_rewards_and_as_a_share() -> None:
    measured = of_groups([MASKED, PLAIN])
    assert measured["reward"] == pytest.approx(3 / 6)
    assert measured["masked_share"] == pytest.approx(1 / 6)


class CountingPolicy(LocalPolicy):
    """Counts the sequences that reach it, and moves by plain gradient descent."""

    def __init__(self) -> None:
        super().__init__(build(llama()))
        self.sequences = 0

    def log_probs(self, batch: PackedBatch, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.sequences += len(set(batch.sequence_index.flatten().tolist()) - {-1})
        return super().log_probs(batch, *args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> Mapping[str, float]:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter -= learning_rate * parameter.grad
        return {"grad_norm": 1.0}


def worked(policy: CountingPolicy, groups: Sequence[Group]) -> Workers:
    sampler = SimpleNamespace(collect=lambda *_: Collected(groups, groups, cast(Any, {}), {}))
    return Workers(
        cast(Any, policy), cast(Any, None), cast(Any, sampler), cast(Any, None), PolicyConfig(row_tokens=24), 0
    )


def test_a_masked_rollout_costs_no_forward_pass_and_a_step_of_nothing_else_moves_nothing() -> None:
    policy = CountingPolicy()
    outcome = rollout_step(worked(policy, [MASKED, PLAIN]), stage(), 0, 0.1)
    assert policy.sequences == 5
    assert outcome.metrics["skipped"] == 0.0
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    hidden = group("c", Score(1.0, {}, True), Score(0.0, {}, True))
    outcome = rollout_step(worked(policy, [hidden]), stage(), 0, 0.1)
    assert policy.sequences == 5
    assert outcome.metrics["skipped"] == 1.0
    assert outcome.metrics["masked_share"] == 1.0
    assert all(torch.equal(parameter, before[name]) for name, parameter in policy.model.named_parameters())


class Scripted:
    """An engine and verifiers in one: every prompt's rewards are written on its row."""

    version = 0

    def publish(self, *_: Any) -> Mapping[str, float]:
        return {}

    def metrics(self) -> dict[str, float]:
        return {}

    def __call__(self, *args: Any, **_: Any) -> list[Group]:
        prompts: Sequence[Prompt] = args[3]
        return [
            dataclasses.replace(
                made,
                prompt=prompt,
                rollouts=tuple(dataclasses.replace(rollout, prompt=prompt) for rollout in made.rollouts),
            )
            for prompt in prompts
            for made in [group("x", *(Score(*score) for score in prompt.row.data["scores"]))]
        ]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """(rows' scores, stage) -> what a step learns from, of so many prompts drawn in their order."""

    def collect(scores: Sequence[Sequence[tuple[Any, ...]]], chosen: RlStage) -> Collected:
        scripted = Scripted()
        monkeypatch.setattr("cascade.sampling.sample_groups", scripted)
        rows = [Row(f"sums/{number}", "math", "sums", {"scores": row}) for number, row in enumerate(scores)]
        mixture = Mixture({"sums": rows}, {"sums": 1.0}, 0)
        renderer = cast(Renderer, SimpleNamespace(prompt=lambda row, teacher=None: Prompt(row, (3, 4), teacher)))
        source = PromptSource(renderer, mixture, 24)
        sampler = Sampler(cast(Any, scripted), cast(Any, scripted), source, {"sums": 8}, chosen, 0, None)
        found = sampler.collect(cast(Any, None), 0)
        sampler.ahead.close()
        return found

    return collect


LOST, HALF, WON, EVEN = [(0.0,), (0.4,)], [(0.5,), (0.0,)], [(1.0,), (0.0,)], [(1.0,), (1.0,)]
OUT = [(1.0, {}, True), (0.0, {}, True)]


def names(groups: Sequence[Group]) -> list[list[float]]:
    return sorted([rollout.reward for rollout in group.rollouts] for group in groups)


def test_prompts_without_a_reward_above_the_bound_are_masked_and_counted_by_reason(collected: Any) -> None:
    found = collected(
        [LOST, HALF, WON, EVEN],
        stage(prompts_per_step=4, num_generations=2, dynamic_filtering=False, min_best_reward=0.5),
    )
    assert names(found.groups) == [[1.0, 0.0], [1.0, 1.0]]
    assert len(found.seen) == 4  # rewards of what is masked are still reported
    assert found.dropped["no_success"] == 4
    assert "zero_signal" not in found.dropped


def test_dynamic_filtering_draws_new_prompts_for_those_without_success_too(collected: Any) -> None:
    scores = [LOST, HALF, WON, EVEN]
    found = collected(scores, stage(prompts_per_step=4, num_generations=2, min_best_reward=0.5, max_refills=3))
    assert names(found.groups) == [[1.0, 0.0]] * 4 or len(found.groups) < 4
    assert len(found.seen) > 4
    assert found.dropped["no_success"] == 2 * sum(max(r.reward for r in g.rollouts) <= 0.5 for g in found.seen)
    assert found.dropped["zero_signal"] == 2 * sum(min(r.reward for r in g.rollouts) == 1.0 for g in found.seen)


def test_groups_that_are_masked_as_a_whole_are_counted_and_replaced(collected: Any) -> None:
    half_masked = [(1.0, {}, True), (0.0,)]
    found = collected([OUT, WON, half_masked], stage(prompts_per_step=3, num_generations=2, max_refills=0))
    assert names(found.groups) == [[1.0, 0.0], [1.0, 0.0]]
    assert found.dropped["masked"] == 3
