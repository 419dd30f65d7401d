"""Every command on a real run, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cascade import __version__
from cascade.cli import main
from tests.conftest import cascade, children_cpu_s

STAGES = ["sft", "if_rl", "math_teacher", "mopd"]
DOMAINS = {"math", "instruction_following"}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def state(run_dir: Path) -> dict[str, Any]:
    done = cascade("status", str(run_dir), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def identities(run_dir: Path) -> dict[str, str]:
    return {stage["name"]: stage["identity"] for stage in state(run_dir)["stages"]}


def weights_written_at(run_dir: Path) -> dict[str, float]:
    """When each stage's weights were written: a stage that trained has written new ones."""
    return {name: next((run_dir / f"stages/{name}/model").glob("*.safetensors")).stat().st_mtime for name in STAGES}


def test_without_a_command_it_says_so_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert (code, out) == (2, "")
    assert "COMMAND" in err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    assert code == 0
    for command in ("plan", "run", "status", "eval", "registry", "export", "report", "doctor", "recipe=quickstart"):
        assert command in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"cascade {__version__}\n", "")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_local_rank_that_deepspeeds_launcher_inserts_is_ignored(
    place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "recipe=smoke"]
    words.insert(place, "--local_rank=0")
    code, out, _ = said(capsys, *words)
    assert (code, out) == said(capsys, "plan", "recipe=smoke")[:2]
    assert code == 0


@pytest.mark.parametrize("words", [("status",), ("report",), ("registry", "list", "--run-dir")])
def test_a_folder_that_is_no_run_is_an_error(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        code, out, err = said(capsys, *words, str(folder))
        assert (code, out) == (1, "")
        assert str(folder) in err
        assert err.count("\n") == 1


def test_without_any_run_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no run below runs/" in said(capsys, "status")[2]


def test_every_gold_answer_of_a_recipe_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "eval", "--check-gold", "recipe=smoke", "environments.math.params.train_rows=7")
    assert code == 0
    assert re.search(r"math +train +7/7 gold answers score 1", out)
    assert len(out.splitlines()) == 6


def test_doctor_prints_findings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "doctor", "--json")
    findings = json.loads(out)
    assert {"name", "status", "detail", "fix"} == set(findings[0])
    assert code == int(any(finding["status"] == "missing" for finding in findings))


def test_status_of_a_run_as_json_has_exactly_the_documented_shape(smoke_run: Path) -> None:
    run = state(smoke_run)
    assert set(run) == {"run", "stages", "registry"}
    assert (run["run"], run["registry"]) == (smoke_run.name, 5)
    assert [stage["name"] for stage in run["stages"]] == STAGES
    assert [stage["parent"] for stage in run["stages"]] == ["base", "sft", "sft", "if_rl"]
    assert [stage["kind"] for stage in run["stages"]] == ["sft", "rl", "rl", "mopd"]
    keys = {"name", "kind", "parent", "status", "steps", "wall_s", "identity", "teachers", "scores", "gates"}
    for stage in run["stages"]:
        assert set(stage) == keys
        assert stage["status"] == "done"
        assert stage["steps"] > 0
        assert stage["wall_s"] > 0
        assert re.fullmatch("[0-9a-f]{16}", stage["identity"])
        assert {split: set(by_domain) for split, by_domain in stage["scores"].items()} == {
            "validation": DOMAINS,
            "test": DOMAINS,
        }
        assert set(stage["scores"]["test"]["math"]) == {"mean", "stderr", "n"}
        assert stage["gates"] == []
    assert set(run["stages"][3]["teachers"]) == DOMAINS
    assert run["stages"][3]["teachers"]["math"] == run["stages"][2]["identity"]


def test_status_as_text_has_a_line_a_stage_and_the_matrix(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "status", str(smoke_run))
    assert code == 0
    assert re.search(r"^mopd +mopd +from if_rl +done +4 steps", out, re.MULTILINE)
    assert "5 checkpoints in the registry" in out
    assert re.search(r"^test +math +instruction_following", out, re.MULTILINE)


def test_a_run_leaves_its_report_and_what_it_was_asked(smoke_run: Path) -> None:
    assert "<html" in (smoke_run / "report.html").read_text().lower()
    assert json.loads((smoke_run / "recipe.yaml").read_text()) == ["smoke", f"run_dir={smoke_run}"]
    for name in ("resolved.yaml", "environment.json", "stages.json", "registry.db"):
        assert (smoke_run / name).is_file()


def test_running_again_trains_nothing(smoke_copy: Path) -> None:
    before, started_s = weights_written_at(smoke_copy), children_cpu_s()
    done = cascade("run", "recipe=smoke", f"run_dir={smoke_copy}")
    assert done.returncode == 0, done.stderr
    assert children_cpu_s() - started_s < 20
    assert weights_written_at(smoke_copy) == before
    assert state(smoke_copy)["registry"] == 5


def test_a_changed_key_trains_its_stage_and_what_depends_on_it_again_and_nothing_else(smoke_copy: Path) -> None:
    before, written = identities(smoke_copy), weights_written_at(smoke_copy)
    words = ("stages.math_teacher.learning_rate=3e-4", "tracking.samples_every=1", "stages.sft.save_steps=7")
    done = cascade("run", "recipe=smoke", f"run_dir={smoke_copy}", *words)
    assert done.returncode == 0, done.stderr
    after, written_now = identities(smoke_copy), weights_written_at(smoke_copy)
    assert {name for name in STAGES if after[name] != before[name]} == {"math_teacher", "mopd"}
    assert {name for name in STAGES if written_now[name] != written[name]} == {"math_teacher", "mopd"}


def test_the_registry_lists_shows_and_finds_the_best(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where, known = ("--run-dir", str(smoke_run)), identities(smoke_run)
    listed = said(capsys, "registry", "list", *where)[1].splitlines()
    assert [line.split()[1] for line in listed] == ["base", *STAGES]
    shown = said(capsys, "registry", "show", *where, "mopd")[1]
    assert shown.startswith(known["mopd"])
    assert "lineage base -> sft -> if_rl -> mopd" in shown
    assert said(capsys, "registry", "show", known["mopd"][:8], *where)[1] == shown
    code, out, _ = said(capsys, "registry", "best", "--domain", "math", "--json", *where)
    assert code == 0
    best = json.loads(out)
    assert set(best) == {"checkpoint", "path", "why"}
    assert Path(best["path"]).is_dir()
    code, out, _ = said(capsys, "registry", "list", "--json", *where)
    assert [entry["checkpoint"]["stage"] for entry in json.loads(out)] == ["base", *STAGES]


def test_the_registry_says_what_it_does_not_know(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--run-dir", str(smoke_run))
    code, _, err = said(capsys, "registry", "best", *where)
    assert code == 1
    assert "needs a domain" in err
    assert "Did you mean 'math'?" in said(capsys, "registry", "best", "--domain", "mth", *where)[2]
    code, _, err = said(capsys, "registry", "show", "nobody", *where)
    assert code == 1
    assert "'nobody' names no checkpoint" in err
    assert said(capsys, "export", "nobody", "/tmp/nowhere", *where)[0] == 1


def test_verify_reports_a_damaged_file_and_only_that(smoke_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where, known = ("--run-dir", str(smoke_copy)), identities(smoke_copy)
    code, out, _ = said(capsys, "registry", "verify", *where)
    assert (code, out.count("  ok\n")) == (0, 5)
    file = next((smoke_copy / "stages/if_rl/model").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    code, out, _ = said(capsys, "registry", "verify", *where)
    assert (code, out.count("  ok\n")) == (1, 4)
    damaged = next(line for line in out.splitlines() if not line.endswith("  ok"))
    assert damaged.startswith(known["if_rl"])
    code, _, err = said(capsys, "export", "if_rl", str(smoke_copy / "out"), *where)
    assert code == 1
    assert "damaged" in err


def test_an_export_loads_in_transformers_and_is_the_stages_model(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "exported"
    assert said(capsys, "export", "mopd", str(out), "--run-dir", str(smoke_run))[0] == 0
    source, exported = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (smoke_run / "stages/mopd/model", out)
    )
    expected = source.state_dict()
    assert exported.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in exported.state_dict().items())
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert (out / "README.md").is_file()
    assert "exists" in said(capsys, "export", "mopd", str(out), "--run-dir", str(smoke_run))[2]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_one_writes(smoke_copy: Path) -> None:
    import fcntl

    with (smoke_copy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cascade("run", "recipe=smoke", f"run_dir={smoke_copy}")
    assert done.returncode == 1
    assert "Another run is writing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_moved_run_still_verifies(smoke_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = Path(shutil.move(smoke_copy, tmp_path / "moved"))
    code, out, _ = said(capsys, "registry", "verify", "--run-dir", str(moved))
    assert (code, out.count("  ok\n")) == (0, 5)
