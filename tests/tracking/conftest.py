"""Rollouts and a whole run folder, made with the real writers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cascade.run_folder import RunFolder, StageStatus, write_json, write_text
from cascade.teachers.registry import Registry
from cascade.tracking.files import FileTracker
from cascade.types import Checkpoint, GateResult, Prompt, Rollout, Row, Score, SplitScore, VersionSpan

HOSTILE = "</pre><script src='http://evil.example/x.js'>alert(1)</script>\x1b[2J\u202e<img src=x onerror=alert(2)>"


def rollout(row: str, index: int, reward: float | None, text: str = "42", failure: str | None = None) -> Rollout:
    prompt = Prompt(Row(row, "math", "addition", {"question": "17+25", "answer": "42"}), (3, 17, 9))
    score = None if reward is None else Score(reward, {"correct": reward})
    return Rollout(prompt, index, (5, 2), (-0.1, -0.02), (VersionSpan(11, 2),), "stop", text, score, failure)


@pytest.fixture
def make_rollout() -> Callable[..., Rollout]:
    return rollout


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def group() -> list[Rollout]:
    """Two groups, the second of wider spread, and a failure."""
    return [
        rollout("a", 0, 0.5),
        rollout("a", 1, 0.6),
        rollout("b", 0, 1.0, "the best"),
        rollout("b", 1, 0.0, "the worst"),
        rollout("b", 2, None, "lost", "infrastructure: no answer in 30 s"),
    ]


SCORES = {
    "sft": {"math": 0.30, "instruction_following": 0.40},
    "if_rl": {"math": 0.29, "instruction_following": 0.71},
    "math_rl": {"math": 0.61, "instruction_following": 0.57},
    "mopd_1": {"math": 0.60, "instruction_following": 0.70},
}
PARENTS = {"sft": ("sft", None), "if_rl": ("rl", "sft"), "math_rl": ("rl", "if_rl"), "mopd_1": ("mopd", "sft")}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of four stages, with hostile text in a rollout, a recipe and an environment."""
    folder = RunFolder(tmp_path / "quick<run>")
    stages = [{"name": name, "kind": kind, "parent": parent} for name, (kind, parent) in PARENTS.items()]
    write_json(folder.stages_file, [*stages, {"name": "last", "kind": "rl", "parent": "mopd_1"}])
    write_text(folder.resolved, f"name: quickstart\n# {HOSTILE}\n")
    write_json(folder.environment, {"python": "3.11", "packages": {"torch": "2.13.0"}, "host": HOSTILE})
    for name in SCORES:
        _finish(folder, name)
    tracker = FileTracker(folder)
    for stage in SCORES:
        for step in range(1, 41):
            wave = math.sin(step / 5)
            tracker.step(stage, step, {"reward": 0.3 + step / 100 + wave / 20, "loss": math.nan, "grad_norm": 1 / step})
        tracker.rollouts(stage, 40, [rollout("a", 0, 1.0, "fine"), rollout("a", 1, 0.0, HOSTILE)])
    tracker.close()
    return folder


def _finish(folder: RunFolder, name: str) -> None:
    kind, parent = PARENTS[name]
    scores = {"test": {domain: SplitScore(mean, 0.028, 300) for domain, mean in SCORES[name].items()}}
    gates = (GateResult("max_drop", "instruction_following", 0.05, 0.14, False, "warn"),) if name == "math_rl" else ()
    teachers = {"math": "id-math_rl", "instruction_following": "id-if_rl-20"} if name == "mopd_1" else {}
    folder.write_status(StageStatus(name, kind, parent, "done", 40, 75.0, f"id-{name}", teachers, scores, gates))
    with Registry(folder.registry) as registry:
        for identity, step in ((f"id-{name}-20", 20), (f"id-{name}", 40)):
            made = Checkpoint(
                identity, name, step, kind, None, "m", "c", "d", "0" * 64, {}, "2026-11-21T10:00:00+00:00"
            )
            registry.add(made)
