"""Whole runs with replay: records reach training, the dashboard and checkpoints; what cannot be is refused first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade import checkpoint
from cascade.checkpoint import StageState
from cascade.compose import load_recipe
from cascade.config import RlStage
from cascade.data.packing import pack
from cascade.errors import ConfigError, DataError
from cascade.policy.deepspeed import DeepSpeedPolicy
from cascade.sharding_checks import check_sharding
from cascade.step import to_sequences
from cascade.types import Group, PackedBatch, Prompt, Rollout, Row, SampledBatch, Score, TrainingSequence, VersionSpan
from tests.conftest import cascade
from tests.processes import metrics
from tests.tiny_models import policy_config, sft_stage, write_model

SHORT = (
    "recipe=smoke",
    "~stages.math_teacher",
    "stages.sft.max_steps=4",
    "evaluation.validation_rows=4",
    "evaluation.test_rows=4",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT with a balance loss, then MOPD with replay, one batch ahead, in bf16."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    done = cascade(
        "run",
        *SHORT,
        f"run_dir={folder}",
        "policy.dtype=bf16",
        "stages.sft.router_aux_loss_coef=0.01",
        "~stages.if_rl",
        "~stages.mopd.teachers.math",
        "stages.mopd.from=sft",
        "stages.mopd.max_steps=2",
        "stages.mopd.routing_replay=true",
        "stages.mopd.max_staleness=1",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def test_every_step_shows_what_experts_did(run: Path) -> None:
    for stage, steps in (("sft", 4), ("mopd", 2)):
        lines = metrics(run, stage)
        assert len(lines) == steps
        for line in lines:
            if line["skipped"] and "experts/unused" not in line:
                continue  # nothing to learn from, so no forward pass
            layers = [name for name in line if name.startswith("experts/") and name.endswith("/max_violation")]
            assert len(layers) > 1
            assert line["experts/max_violation"] == pytest.approx(sum(line[name] for name in layers) / len(layers))
            assert line["experts/max_violation"] >= 1
            assert 0 <= line["experts/unused"] < 1
    assert all(line["aux_loss"] > 0.9 for line in metrics(run, "sft"))
    assert all("aux_loss" not in line for line in metrics(run, "mopd"))


def test_sampled_choices_are_replayed_and_counted(run: Path) -> None:
    assert all("replay/changed" not in line for line in metrics(run, "sft"))
    trained = [line for line in metrics(run, "mopd") if "experts/unused" in line]
    assert trained
    for line in trained:
        assert line["replay/missing"] == 0
        assert 0 <= line["replay/changed"] < 0.5


def test_the_report_has_their_curves(run: Path) -> None:
    page = (run / "report.html").read_text()
    for metric in ("experts/max_violation", "experts/unused", "experts/0/max_violation", "replay/changed", "aux_loss"):
        assert metric in page


def prompt(tokens: int = 3) -> Prompt:
    return Prompt(Row("row", "math", "addition", {}), tuple(range(2, 2 + tokens)))


def record(tokens: int, fill: int | None = None) -> torch.Tensor:
    if fill is not None:
        return torch.full((tokens, 2, 2), fill, dtype=torch.uint8)
    return torch.arange(tokens * 4, dtype=torch.uint8).reshape(tokens, 2, 2)


def rollout(reward: float, fill: int | None = None, tokens: int = 4) -> Rollout:
    return Rollout(
        prompt(),
        0,
        tuple(range(5, 5 + tokens)),
        (-0.5,) * tokens,
        (VersionSpan(0, tokens),),
        "stop",
        score=Score(reward),
        routed_experts=record(3 + tokens - 1, fill),
    )


def rl_stage(**keys: Any) -> RlStage:
    return RlStage(**{"mix": {"math": 1.0}, "max_steps": 1, "learning_rate": 1e-3, "routing_replay": True, **keys})


def test_every_part_of_an_episode_brings_its_own_record() -> None:
    earlier = replace(rollout(0.0, fill=1), score=None)
    episode = replace(rollout(1.0, fill=2), earlier=(earlier,))
    first, second, _ = to_sequences(Group(prompt(), (episode, rollout(0.0, fill=3))), rl_stage())
    assert [int(s.routed_experts[0, 0, 0]) for s in (first, second) if s.routed_experts is not None] == [1, 2]
    (plain, *_) = to_sequences(Group(prompt(), (episode,)), rl_stage(routing_replay=False))
    assert plain.routed_experts is None


def packed(sequences: list[TrainingSequence], one_per_row: bool = False) -> list[PackedBatch]:
    weights = [1.0] * len(sequences)
    sizes = {"row_tokens": 16, "rows_per_batch": 2, "ranks": 1, "rank": 0, "pad_id": 0}
    return pack(sequences, weights, **sizes, one_per_row=one_per_row)


def test_packing_puts_records_beside_their_tokens() -> None:
    documents = to_sequences(Group(prompt(), (rollout(1.0), rollout(0.0, fill=9))), rl_stage())
    documents.append(TrainingSequence((3, 4, 5), (0, 1, 1)))
    (batch,) = packed(documents)
    assert batch.routed_experts is not None
    assert batch.routed_experts.dtype == torch.int16
    assert batch.context_weight is not None
    assert float(batch.context_weight.sum()) == pytest.approx(1.0)
    assert torch.equal(batch.context_weight > 0, batch.sequence_index >= 0)
    for index, document in enumerate(documents):
        at = batch.sequence_index == index
        own = batch.routed_experts[at]
        known = 0 if document.routed_experts is None else len(document.routed_experts)
        assert document.routed_experts is None or torch.equal(own[:known], document.routed_experts.to(torch.int16))
        assert bool((own[known:] == -1).all())
    assert bool((batch.routed_experts[batch.sequence_index < 0] == -1).all())
    (plain,) = packed([TrainingSequence((3, 4, 5), (0, 1, 1))])
    assert plain.routed_experts is None


def test_records_that_cannot_be_are_refused() -> None:
    document = TrainingSequence((3, 4, 5), (0, 1, 1), routed_experts=record(4))
    with pytest.raises(DataError, match="3 tokens and recorded experts of 4"):
        packed([document])
    two = [replace(document, routed_experts=experts) for experts in (record(3), record(3)[:, :1])]
    with pytest.raises(DataError, match="different layers"):
        packed(two)


def test_batches_sampled_ahead_keep_their_records_in_a_checkpoint(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3_moe")
    policy = DeepSpeedPolicy(folder, policy_config("qwen3_moe"), sft_stage(), freeze_router=True)
    waiting = [SampledBatch(3, [Group(prompt(), (rollout(1.0), rollout(0.0, fill=7)))])]
    state = StageState("x", 2, 1.0, {}, {"zero_stage": 1}, waiting)
    checkpoint.save(policy, tmp_path / "saved", state)
    found = checkpoint.restore(policy, tmp_path / "saved", "x", {"zero_stage": 1})
    policy.close()
    assert found is not None
    (batch,) = found.waiting
    records = [one.routed_experts for one in batch.groups[0].rollouts]
    assert records[0] is not None
    assert torch.equal(records[0], record(6))
    assert records[1] is not None
    assert torch.equal(records[1], record(6, fill=7))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("stages.if_rl.router_aux_loss_coef=0.1",), "which `freeze_router` keeps as they are"),
        (("stages.sft.router_aux_loss_coef=0.1", "policy.lora={rank: 4}"), "trains adapters in their place"),
        (
            ("stages.if_rl.routing_replay=true", "stages.if_rl.max_staleness=2", "rollout.engine=vllm_inprocess"),
            "loses where weights are published in mid-rollout",
        ),
    ],
    ids=["frozen", "lora", "mid-rollout"],
)
def test_keys_that_contradict_each_other_are_refused_at_start(words: tuple[str, ...], message: str) -> None:
    recipe, origins = load_recipe("smoke", words)
    with pytest.raises(ConfigError, match=message):
        check_sharding(recipe, origins)


@pytest.mark.slow
def test_a_selection_bias_that_is_not_there_is_refused_before_a_step(tmp_path: Path) -> None:
    words = (*SHORT, "~stages.mopd", f"run_dir={tmp_path / 'run'}", "stages.if_rl.expert_bias_update_rate=0.001")
    done = cascade("run", *words)
    assert done.returncode != 0
    assert "has no selection bias to update" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "stages" / "sft" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_run_with_replay_that_is_killed_ends_with_the_weights_of_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    from tests.faults.test_kill import finish, kill_in

    replayed = ("stages.if_rl.routing_replay=true", "stages.mopd.routing_replay=true", "stages.mopd.max_steps=2")
    more = (*replayed, "~stages.mopd.teachers.math", "stages.if_rl.max_staleness=1", "stages.if_rl.save_steps=1")

    def words(folder: Path) -> list[str]:
        return [*SHORT, *more, "stages.if_rl.max_steps=6", f"run_dir={folder}"]

    def weights(folder: Path) -> bytes:
        assert any("replay/changed" in line for line in metrics(folder, "mopd"))
        return (folder / "stages" / "mopd" / "model" / "model.safetensors").read_bytes()

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, words(whole))
    kill_in("if_rl", killed, words(killed), random.Random(0))
    finish(killed, words(killed))
    assert weights(killed) == weights(whole)
