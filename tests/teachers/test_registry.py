"""The registry: what is entered is found again, whatever happens to the process that wrote it."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cascade.errors import RegistryError
from cascade.run_folder import RunFolder, checkpoint_stages
from cascade.teachers.registry import Registry, weights_sha256
from cascade.types import Checkpoint, GateResult, SplitScore

TIME = "2026-11-21T10:00:00+00:00"


def checkpoint(identity: str, stage: str = "if_rl", step: int = 40, parent: str | None = None) -> Checkpoint:
    path, versions = f"stages/{stage}/model", {"torch": "2.13.0"}
    return Checkpoint(identity, stage, step, "rl", parent, path, "cfg", "data", "0" * 64, versions, TIME)


@pytest.fixture
def registry(tmp_path: Path):
    with Registry(tmp_path / "registry.db") as opened:
        yield opened


def math_score(mean: float, domain: str = "math") -> dict[str, dict[str, SplitScore]]:
    return {"validation": {domain: SplitScore(mean, 0.028, 300)}}


def test_checkpoints_come_back_equal_and_in_order(registry: Registry) -> None:
    first, second = checkpoint("b1", "sft"), checkpoint("a2", parent="b1")
    registry.add(first)
    registry.add(second)
    registry.add(replace(first, step=41))  # replaced, not entered twice, at its old place
    assert registry.list() == [replace(first, step=41), second]
    assert registry.count() == 2
    assert registry.by_stage("sft") == [replace(first, step=41)]
    assert registry.lineage("a2") == [replace(first, step=41), second]


def test_replacing_a_checkpoint_keeps_its_scores(registry: Registry) -> None:
    registry.add(checkpoint("a"))
    registry.record_scores("a", math_score(0.5), "e")
    registry.add(checkpoint("a"))
    assert registry.scores("a") == math_score(0.5)


def test_a_prefix_is_enough_when_only_one_has_it(registry: Registry) -> None:
    for identity in ("abc1", "abd2", "ab"):
        registry.add(checkpoint(identity))
    assert registry.get("abc").identity == "abc1"
    assert registry.get("ab").identity == "ab"
    with pytest.raises(RegistryError, match="'a' names 3 checkpoints"):
        registry.get("a")
    with pytest.raises(RegistryError, match=r"'zz' names no checkpoint .* abc1 \(if_rl step 40\)"):
        registry.get("zz")
    with pytest.raises(RegistryError, match="names no checkpoint"):
        registry.get("")


def test_a_broken_lineage_is_an_error(registry: Registry) -> None:
    registry.add(checkpoint("a", parent="b"))
    with pytest.raises(RegistryError, match="'b' names no checkpoint"):
        registry.lineage("a")
    registry.add(checkpoint("b", parent="a"))
    with pytest.raises(RegistryError, match="circle"):
        registry.lineage("a")


def test_best_says_why(registry: Registry) -> None:
    registry.add(checkpoint("a", "if_rl"))
    registry.add(checkpoint("b", "mopd_1", 60))
    registry.record_scores("a", math_score(0.571), "e")
    registry.record_scores("b", math_score(0.612), "e")
    best = registry.best("math")
    assert best.checkpoint.identity == "b"
    assert best.score == SplitScore(0.612, 0.028, 300)
    assert best.why == (
        "mopd_1 step 60 has the highest validation score on math: 0.612 ± 0.028 (n=300), 0.041 above if_rl"
    )
    assert registry.best("math", among=["if_rl"]).why == (
        "if_rl step 40 is the only one with a validation score on math: 0.571 ± 0.028 (n=300)"
    )
    assert registry.best("math", among={"a"}).checkpoint.identity == "a"


def test_of_equals_the_earlier_checkpoint_is_best(registry: Registry) -> None:
    for identity, step in (("a", 20), ("b", 40)):
        registry.add(checkpoint(identity, step=step))
    registry.record_scores("b", math_score(0.5), "other settings")
    registry.record_scores("a", math_score(0.5), "e")
    registry.add(checkpoint("a", step=20))
    best = registry.best("math")
    assert best.checkpoint.identity == "a"
    assert "equal to if_rl step 40, which came later; not all were evaluated with the same settings" in best.why


def test_best_of_an_unscored_domain_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="evaluate a stage first"):
        registry.best("math")
    registry.add(checkpoint("a"))
    registry.record_scores("a", math_score(0.5), "e")
    with pytest.raises(RegistryError, match="Did you mean 'math'"):
        registry.best("maths")
    with pytest.raises(RegistryError, match="among the checkpoints allowed"):
        registry.best("math", among=[])
    with pytest.raises(RegistryError, match="No checkpoint has a test score"):
        registry.best("math", split="test")


def test_scores_gates_and_events_come_back(registry: Registry) -> None:
    registry.add(checkpoint("abc"))
    scores = {"test": {"math": SplitScore(0.5, 0.02, 300, 0.8, 8)}, **math_score(0.4)}
    registry.record_scores("ab", scores, "e")
    assert registry.scores("abc") == scores
    gates = [GateResult("max_drop", "math", 0.05, 0.12, False, "warn")]
    registry.record_gates("abc", gates * 2)
    registry.record_gates("abc", gates)
    assert registry.gates("abc") == gates
    registry.event("if_rl", "resumed", step=60, loss=math.nan)
    (event,) = registry.events()
    assert (event.stage, event.kind, event.detail) == ("if_rl", "resumed", {"step": 60, "loss": None})


def test_a_score_of_nan_is_refused_and_nothing_of_it_is_kept(registry: Registry) -> None:
    registry.add(checkpoint("a"))
    with pytest.raises(RegistryError, match="math is nan"):
        registry.record_scores("a", {**math_score(math.nan), "test": {"code": SplitScore(1.0, 0.0, 1)}}, "e")
    assert registry.scores("a") == {}


def test_a_file_that_is_no_registry_or_of_another_format_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is text and no database" * 50)
    with pytest.raises(RegistryError, match="cannot be opened"):
        Registry(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "new.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RegistryError, match="format 99"):
        Registry(tmp_path / "new.db")


WRITER = """
import sys
from pathlib import Path
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from test_registry import checkpoint, math_score
from cascade.teachers.registry import Registry
with Registry(Path(sys.argv[1])) as registry:
    for i in range(100000):
        registry.add(checkpoint(f"{i:06d}"))
        registry.record_scores(f"{i:06d}", math_score(i / 1e6), "e")
        print(i, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_it_had_finished(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    finished = -1
    for wait in (3, 10, 25):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(wait):
                finished = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            finished = max([finished, *(int(line) for line in writer.stdout.read().split())])
        stages = checkpoint_stages(RunFolder(tmp_path))  # the first reader rolls back what was unfinished
        assert len(stages) in (finished + 1, finished + 2)
        with Registry(path) as registry:
            assert registry.best("math").score.mean == pytest.approx(finished / 1e6, abs=2e-6)
            registry.event("if_rl", "resumed")
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_verify_finds_what_is_missing_and_what_changed(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "stages" / "if_rl" / "model"
    registry.add(checkpoint("a"))
    assert registry.verify("a") == [f"The folder {folder} is missing."]
    folder.mkdir(parents=True)
    problems = registry.verify("a")
    assert [word in " ".join(problems) for word in ("config.json", "tokenizer", "safetensors")] == [True] * 3
    for name in ("config.json", "tokenizer.json", "model-2.safetensors", "model-1.safetensors"):
        (folder / name).write_text(name)
    registry.add(replace(checkpoint("a"), weights_sha256=weights_sha256(folder)))
    assert registry.verify("a") == []
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-3.safetensors"}}')
    (folder / "model-1.safetensors").write_text("another")
    problems = registry.verify("a")
    assert len(problems) == 2
    assert "model-3.safetensors" in problems[0]
    assert "SHA-256" in problems[1]


def test_the_hash_is_over_the_contents_in_the_order_of_names(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    (tmp_path / "other.bin").write_bytes(b"x")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
    with pytest.raises(RegistryError, match=r"no \*\.safetensors"):
        weights_sha256(tmp_path / "none")
