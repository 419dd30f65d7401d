"""A reward_model stage learns preferences, is measured honestly, exported whole, and taken for no policy."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cascade.environments.preference_pairs import PreferencePairs
from cascade.errors import RegistryError
from cascade.run_folder import RunFolder, read_status
from cascade.stages.evaluate_pairs import Comparison, pair_score
from cascade.teachers.registry import Registry
from cascade.tracking.matrix import regression_matrix
from cascade.types import SplitScore
from tests.conftest import REPOSITORY, cascade
from tests.preferences import write_pairs
from tests.processes import environment, metrics

RECIPE = REPOSITORY / "tests" / "stages" / "reward_model.yaml"
OTHERS = ("~stages.if_rl", "~stages.math_teacher", "~stages.mopd")

DIES_IN_STEP_14 = """
import os, sys
from cascade.cli import main
from cascade.stages import train
whole = train.one_step
def dying(work, stage, step):
    if stage.kind == "reward_model" and step == 13:
        os._exit(9)
    return whole(work, stage, step)
train.one_step = dying
main(sys.argv[1:])
"""


def words(pairs: Path, run: Path, *more: str) -> list[str]:
    return ["run", f"recipe={RECIPE}", f"environments.pairs.params.train={pairs}", f"run_dir={run}", *OTHERS, *more]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", 1000)


@pytest.fixture(scope="module")
def done(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run, and what it printed."""
    run = tmp_path_factory.mktemp("reward") / "run"
    finished = cascade(*words(pairs, run))
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return run, finished.stdout


def evaluation(run: Path) -> dict[str, Any]:
    return json.loads((run / "stages" / "liked" / "evaluation.json").read_text())


def test_it_learns_the_preference_and_not_only_the_length(done: tuple[Path, str]) -> None:
    run, printed = done
    losses = [line["loss"] for line in metrics(run, "liked")]
    assert len(losses) == 30
    assert statistics.fmean(losses[-5:]) < statistics.fmean(losses[:3]) - 0.1
    for split, count in (("validation", 60), ("test", 200)):
        score = evaluation(run)["pairs"][split]["preference"]
        assert score["accuracy"]["n"] == count
        assert score["prefers"] == "longer"
        assert 0.5 < score["length_only"]["mean"] < 0.8
        assert f"{split} pairs of preference: {score['accuracy']['mean']:.3f} ± " in printed
    assert score["above_length"]["mean"] > 2 * score["above_length"]["stderr"] > 0
    assert score["accuracy"]["mean"] <= 0.97  # one pair in ten is the wrong way round


def test_the_exported_folder_loads_in_transformers_and_scores_what_was_measured(
    done: tuple[Path, str], pairs: Path
) -> None:
    folder = done[0] / "stages" / "liked" / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 1
    rows = PreferencePairs(name="pairs", train=str(pairs), validation_rows=60, test_rows=200).rows("test")
    chats = [side for row in rows for side in (row.data["chosen"], row.data["rejected"])]
    batch = tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        rewards = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
    margins = rewards[::2] - rewards[1::2]
    measured = evaluation(done[0])["pairs"]["test"]["preference"]
    assert (margins > 0).float().mean().item() == pytest.approx(measured["accuracy"]["mean"])
    assert margins.mean().item() == pytest.approx(measured["margin"], abs=1e-4)
    longer = statistics.fmean(
        len(r.data["chosen"][-1]["content"]) > len(r.data["rejected"][-1]["content"]) for r in rows
    )
    ties = statistics.fmean(
        len(r.data["chosen"][-1]["content"]) == len(r.data["rejected"][-1]["content"]) for r in rows
    )
    assert measured["longer"]["mean"] == pytest.approx(longer + ties / 2)


def test_it_is_registered_with_its_kind_and_lineage_and_its_card_says_what_it_is(done: tuple[Path, str]) -> None:
    run = done[0]
    with Registry(run / "registry.db") as registry:
        (checkpoint,) = registry.by_stage("liked")
        assert checkpoint.kind == "reward_model"
        assert [entry.stage for entry in registry.lineage(checkpoint.identity)] == ["base", "sft", "liked"]
        assert registry.verify(checkpoint.identity) == []
        assert registry.scores(checkpoint.identity) == {}
    card = (run / checkpoint.path / "README.md").read_text()
    for words_of_it in (
        "text-classification",
        "AutoModelForSequenceClassification",
        "A reward model",
        "by length alone",
    ):
        assert words_of_it in card
    accuracy = evaluation(run)["pairs"]["test"]["preference"]["accuracy"]
    assert f"{accuracy['mean']:.3f} ± {accuracy['stderr']:.3f}" in card


def test_it_is_no_policy_to_anybody(done: tuple[Path, str]) -> None:
    run = done[0]
    stages = {stage["name"]: stage for stage in read_status(run)["stages"]}
    assert stages["liked"]["status"] == "done"
    assert stages["liked"]["scores"] == {}
    assert (stages["liked"]["parent"], stages["after"]["parent"]) == ("sft", "sft")
    assert set(stages["sft"]["scores"]["test"]) == {"math", "instruction_following"}
    assert "liked" not in regression_matrix(list(stages.values()), "test")
    report = (run / "report.html").read_text()
    assert "Reward models" in report
    assert f"{evaluation(run)['pairs']['test']['preference']['accuracy']['mean']:.3f}" in report
    assert json.loads(cascade("status", str(run), "--json").stdout)["stages"][1]["kind"] == "reward_model"


def test_it_rewards_the_rollouts_of_a_stage_with_what_transformers_says_of_them(done: tuple[Path, str]) -> None:
    run = done[0]
    folder = run / "stages" / "liked" / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = parquet.read_table(run / "stages" / "after" / "rollouts" / "step_000001.parquet").to_pylist()
    by_domain = {domain: [row for row in rows if row["domain"] == domain] for domain in ("preference", "math")}
    assert {domain: len(found) for domain, found in by_domain.items()} == {"preference": 16, "math": 8}
    assert all(row["reward"] == 0 for row in by_domain["math"])
    for row in by_domain["preference"]:
        prompt = row["prompt"].split("<|user|>")[1].split("<|end|>")[0]
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["completion"]}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            assert row["reward"] == pytest.approx(0.5 * model(ids).logits[0, 0].item(), abs=1e-4)
    assert len({row["reward"] for row in by_domain["preference"]}) > 8
    status = {stage["name"]: stage for stage in read_status(run)["stages"]}
    assert status["after"]["teachers"] == {"reward": status["liked"]["identity"]}
    assert set(status["after"]["scores"]["test"]) == {"math", "instruction_following"}
    assert metrics(run, "after")[0]["grad_norm"] > 0


def test_best_never_chooses_it_whatever_its_scores(copied: Path) -> None:
    with Registry(copied / "registry.db") as registry:
        liked, sft = registry.by_stage("liked")[0], registry.by_stage("sft")[0]
        registry.record_scores(liked.identity, {"validation": {"preference": SplitScore(1.0, 0.0, 9)}}, "x")
        with pytest.raises(RegistryError, match="No checkpoint has a validation score on 'preference'"):
            registry.best("preference")
        registry.record_scores(sft.identity, {"validation": {"preference": SplitScore(0.1, 0.0, 9)}}, "x")
        assert registry.best("preference").checkpoint == sft


@pytest.fixture
def copied(done: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run, to go on with or to change."""
    return Path(shutil.copytree(done[0], tmp_path / "run"))


def test_a_finished_one_is_neither_trained_nor_measured_again_and_a_gate_can_stop_at_it(
    copied: Path, pairs: Path
) -> None:
    run = RunFolder(copied)
    files = [run.model("liked") / "model.safetensors", run.evaluation("liked")]
    before = [file.stat().st_mtime_ns for file in files]
    gate = "stages.liked.gates=[{min_score: {preference: 1.0}, action: stop}]"
    stopped = cascade(*words(pairs, run.path, gate))
    assert stopped.returncode == 1
    assert "The gate of liked did not hold: preference is at" in stopped.stderr
    assert [file.stat().st_mtime_ns for file in files] == before
    assert {stage["name"]: stage["status"] for stage in read_status(run.path)["stages"]}["liked"] == "stopped"


@pytest.mark.slow
def test_a_death_in_the_middle_changes_no_byte(done: tuple[Path, str], pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = words(pairs, run)
    died = subprocess.run(
        [sys.executable, "-c", DIES_IN_STEP_14, *arguments], cwd=REPOSITORY, env=environment(), capture_output=True
    )
    assert died.returncode == 9, died.stderr.decode()[-3000:]
    assert [path.name for path in (run / "stages" / "liked" / "checkpoints").iterdir()] == ["step_000010"]
    assert len(metrics(run, "liked")) == 13
    finished = cascade(*arguments)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert "resumed after step 10" in finished.stdout
    timeless = [
        [{k: v for k, v in line.items() if k not in ("time", "step_time")} for line in metrics(folder, "liked")]
        for folder in (run, done[0])
    ]
    assert timeless[0] == timeless[1]
    assert len({(folder / "stages/liked/model/model.safetensors").read_bytes() for folder in (run, done[0])}) == 1


def test_the_baseline_takes_the_way_that_training_pairs_show_and_ties_count_half() -> None:
    judged = [Comparison(1.0, 5), Comparison(-1.0, 5), Comparison(0.0, -5), Comparison(2.0, 0)]
    score = pair_score(judged, "shorter")
    assert score.accuracy.mean == (1 + 0 + 0.5 + 1) / 4
    assert score.longer.mean == (1 + 1 + 0 + 0.5) / 4
    assert score.length_only.mean == 1 - score.longer.mean
    assert score.above_length.mean == score.accuracy.mean - score.length_only.mean
    assert score.accuracy.stderr == pytest.approx(statistics.stdev([1, 0, 0.5, 1]) / math.sqrt(4))
    assert score.above_length.stderr == pytest.approx(statistics.stdev([1, 0, -0.5, 0.5]) / math.sqrt(4))
    assert score.margin == 0.5


def test_two_processes_train_measure_and_reward_what_one_does(
    done: tuple[Path, str], pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finished = cascade(*words(pairs, run, "launch=torchrun", "launch.processes=2", "policy.zero_stage=2"))
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    for ours, theirs in zip(metrics(run, "liked"), metrics(done[0], "liked"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-3)
    for split in ("validation", "test"):
        ours, theirs = (evaluation(folder)["pairs"][split]["preference"] for folder in (run, done[0]))
        assert ours["longer"] == theirs["longer"]
        assert ours["accuracy"]["mean"] == pytest.approx(theirs["accuracy"]["mean"], abs=0.011)
    assert metrics(run, "after")[0]["reward/preference"] == pytest.approx(
        metrics(done[0], "after")[0]["reward/preference"], abs=0.01
    )
