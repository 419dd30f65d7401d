"""One training step of any kind, top to bottom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cascade import metrics, parallel
from cascade.algorithms.filtering import is_masked
from cascade.algorithms.grpo import group_advantages
from cascade.algorithms.losses import sequence_weights
from cascade.config import MopdStage, PolicyConfig, RewardModelStage, RlStage, SamplingStage, SftStage
from cascade.data.packing import pack, pack_pairs
from cascade.errors import DataError
from cascade.objectives import Sums, micro_batch_loss, pair_loss
from cascade.ports import Policy, RewardModel, TeacherScorer
from cascade.prompts import PromptSource
from cascade.sampling import Sampler
from cascade.types import Group, Rollout, TrainingSequence

REFERENCE = "reference"  # the name under which the teacher scorer holds the parent checkpoint, for the KL term


@dataclass(frozen=True)
class Workers:
    """What a step works with. Every rank holds its own and makes the same calls."""

    policy: Policy
    source: PromptSource
    sampler: Sampler | None  # None where a stage samples nothing
    teachers: TeacherScorer
    packing: PolicyConfig
    pad_id: int


@dataclass(frozen=True)
class PairWorkers:
    """What a step of a reward model works with. Every rank holds its own and makes the same calls."""

    reward_model: RewardModel
    source: PromptSource
    packing: PolicyConfig
    pad_id: int


@dataclass(frozen=True)
class StepOutcome:
    """What a step leaves behind: numbers for the dashboard and the rollouts it learnt from."""

    metrics: Mapping[str, float]
    rollouts: Sequence[Rollout] = ()


def sft_step(work: Workers, stage: SftStage, learning_rate: float) -> StepOutcome:
    """One optimiser step on demonstrations."""
    sequences = work.source.demonstrations(stage.batch_size)
    return StepOutcome(update(work, stage, sequences, "token", learning_rate))


def pair_step(work: PairWorkers, stage: RewardModelStage, learning_rate: float) -> StepOutcome:
    """One optimiser step of a reward model on preference pairs, every pair of the global batch weighing the same."""
    sides = [side for pair in work.source.pairs(stage.batch_size) for side in pair]  # chosen, rejected, chosen, ...
    sharing = work.packing.sequence_parallel  # processes that are given the same rows
    batches = pack_pairs(
        sides,
        [1.0 / stage.batch_size] * len(sides),
        row_tokens=work.packing.row_tokens,
        rows_per_batch=work.packing.rows_per_micro_batch,
        ranks=parallel.data_size(sharing),
        rank=parallel.data_rank(sharing),
        pad_id=work.pad_id,
    )
    sums: Sums = {}
    for batch in batches:
        loss, here = pair_loss(work.reward_model, batch.to(parallel.device()), stage.router_aux_loss_coef)
        work.reward_model.backward(loss)
        sums = {name: sums.get(name, 0.0) + value.detach().cpu() for name, value in here.items()}
    engine = work.reward_model.step(learning_rate)
    return StepOutcome({**metrics.reduced(sums, sharing), **engine, "learning_rate": learning_rate})


def rollout_step(work: Workers, stage: RlStage | MopdStage, step: int, learning_rate: float) -> StepOutcome:
    """One batch of rollouts and the optimiser steps on it: GRPO, or MOPD where a teacher fills the advantages."""
    if work.sampler is None:
        raise TypeError("a stage that samples has no rollout engine")
    collected = work.sampler.collect(work.policy, step)
    measured = {**collected.measured, **metrics.of_groups(collected.seen), **metrics.of_drops(collected.dropped)}
    measured.update(metrics.of_staleness(collected.seen, step))
    rollouts = [rollout for group in collected.seen for rollout in group.rollouts]
    sequences = [sequence for group in collected.groups for sequence in to_sequences(group, stage)]
    sequences = [sequence for sequence in sequences if sequence.loss_tokens]
    if not sequences:  # nothing to learn: Adam would turn the noise of an empty gradient into full-size drift
        nothing = {"loss": 0.0, "grad_norm": 0.0, "skipped": 1.0, "learning_rate": learning_rate}
        return StepOutcome({**measured, **nothing}, rollouts)
    if isinstance(stage, MopdStage):
        sequences = add_teacher(work, stage, sequences)
    elif stage.kl_coef:
        sequences = add_reference(work, stage, sequences)
    for _ in range(stage.num_iterations):
        measured.update(update(work, stage, sequences, stage.loss_reduction, learning_rate))
    return StepOutcome(measured, rollouts)


def to_sequences(group: Group, stage: RlStage | MopdStage) -> list[TrainingSequence]:
    """The rollouts of a group as documents to train on, each part with the group-relative advantage of its rollout."""
    rewards = torch.tensor([rollout.reward for rollout in group.rollouts])
    if isinstance(stage, RlStage):
        advantages = group_advantages(rewards, baseline=stage.baseline, scale=stage.scale_rewards).tolist()
    else:
        advantages = group_advantages(rewards).tolist() if stage.outcome_weight else [0.0] * len(rewards)
    return [
        _to_sequence(rollout, part, advantage, stage)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True)
        for part in rollout.parts
    ]


def _to_sequence(rollout: Rollout, part: Rollout, advantage: float, stage: SamplingStage) -> TrainingSequence:
    """One part of a rollout; what the environment wrote is read but not learnt."""
    before = len(part.prompt.token_ids)
    overlong = stage.overlong_filtering and rollout.finish_reason == "length"
    in_loss = 0 if overlong or is_masked(rollout) else 1
    sampled = part.sampled or (1,) * len(part.token_ids)
    return TrainingSequence(
        token_ids=part.prompt.token_ids + part.token_ids,
        loss_mask=(0,) * before + tuple(flag * in_loss for flag in sampled),
        sampler_log_probs=(0.0,) * before + tuple(value * in_loss for value in part.sampler_log_probs),
        advantage=advantage,
        domain=rollout.prompt.row.domain,
        teacher=rollout.prompt.teacher,
        routed_experts=part.routed_experts if stage.routing_replay else None,
    )


def add_teacher(work: Workers, stage: MopdStage, sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
    """Every sequence scored by its own teacher at the rollout temperature, one teacher after the other. Collective.

    Raises `DataError` for a sequence without a teacher.
    """
    if any(sequence.teacher is None for sequence in sequences):
        raise DataError("A prompt of a distillation stage has no teacher.", "Name one for its domain.")
    scored = list(sequences)
    for teacher in work.teachers.order(sorted({str(sequence.teacher) for sequence in sequences})):
        mine = [i for i, sequence in enumerate(sequences) if sequence.teacher == teacher]
        share = parallel.spread(mine)
        documents = [sequences[i] for i in share]
        if stage.top_k:
            tops = work.teachers.top_k(teacher, documents, stage.temperature, stage.top_k)
            filled = [dataclasses.replace(d, teacher_top=top) for d, top in zip(documents, tops, strict=True)]
        else:
            values = work.teachers.score(teacher, documents, stage.temperature)
            filled = [
                dataclasses.replace(d, teacher_log_probs=tuple(v)) for d, v in zip(documents, values, strict=True)
            ]
        for i, sequence in zip(mine, parallel.collect(filled), strict=True):
            scored[i] = sequence
    return scored


def add_reference(work: Workers, stage: RlStage, sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
    """Every sequence with the parent checkpoint's log-probs, for the KL term. Collective."""
    share = parallel.spread(list(sequences))
    values = work.teachers.score(REFERENCE, share, stage.temperature)
    filled = [dataclasses.replace(s, reference_log_probs=tuple(v)) for s, v in zip(share, values, strict=True)]
    return parallel.collect(filled)


def update(
    work: Workers,
    stage: SftStage | RlStage | MopdStage,
    sequences: Sequence[TrainingSequence],
    reduction: Literal["token", "sequence"],
    learning_rate: float,
) -> dict[str, float]:
    """One optimiser step on all sequences, whatever their packing and the number of ranks. Collective."""
    weights = sequence_weights([sequence.loss_tokens for sequence in sequences], reduction)
    sharing = work.packing.sequence_parallel  # processes that are given the same rows
    batches = pack(
        sequences,
        weights,
        row_tokens=work.packing.row_tokens,
        rows_per_batch=work.packing.rows_per_micro_batch,
        ranks=parallel.data_size(sharing),
        rank=parallel.data_rank(sharing),
        pad_id=work.pad_id,
        one_per_row=not work.packing.packing,
    )
    sums: Sums = {}
    for batch in batches:
        loss, here = micro_batch_loss(work.policy, batch.to(parallel.device()), stage)
        work.policy.backward(loss)
        sums = {name: sums.get(name, 0.0) + value.detach().cpu() for name, value in here.items()}
    totals = metrics.reduced(sums, sharing)
    signal = totals.pop("signal")
    engine = work.policy.step(learning_rate if signal > 0 else 0.0)  # no signal: no weight moves
    return {**metrics.of_tokens(totals), **engine, "skipped": float(signal == 0), "learning_rate": learning_rate}
