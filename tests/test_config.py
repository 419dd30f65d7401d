"""Every wrong recipe is one clear error, with the key, the place it was written and the nearest valid name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cascade import config as schema
from cascade.commands import checked_recipe
from cascade.config import MopdStage, RlStage
from cascade.errors import ConfigError
from cascade.stage_graph import parents
from tests.conftest import REPOSITORY, cascade, children_cpu_s

SMOKE = str(REPOSITORY / "recipes" / "smoke.yaml")
INHERIT = "defaults: [smoke, _self_]\n"
EXTRA = "defaults:\n  - smoke\n  - stage@stages.extra: rl\n  - _self_\nstages:\n  extra:\n"

# override (a space separates several) -> what the error must say; {it} is the override itself, as an error names it
WRONG_OVERRIDES: dict[str, tuple[str, ...]] = {
    # unknown keys
    "stages.if_rl.max_stepss=3": ("Unknown key `stages.if_rl.max_stepss` in {it}", "`max_steps`"),
    "+typo=1": ("Unknown key `typo` in {it}", "run_dir"),
    "++typo=1": ("Unknown key `typo` in {it}",),
    "policy.zero_stag=3": ("Unknown key `policy.zero_stag` in {it}", "`zero_stage`"),
    "stages.sft.a.b.c=3": ("Unknown key `stages.sft.a` in {it}",),
    "stages.if_rl.parent=sft": ("Unknown key `stages.if_rl.parent` in {it}",),
    "stages.sft.num_generations=4": ("sft.num_generations` in {it}", "sft stages have no such key", "rl and mopd"),
    "stages.if_rl.batch_size=4": ("rl stages have no such key", "sft and reward_model stages have it"),
    "stages.if_rl.teachers.math=best": ("`stages.if_rl.teachers` in {it}", "mopd stages have it"),
    "stages.sft.gates=[{max_dropp:{math:0.1}}]": ("`stages.sft.gates.0.max_dropp` in {it}", "`max_drop`"),
    "environments.math.params.digitss=2": ("`environments.math.params.digitss` in {it}", "`digits`"),
    "hydra.run.dir=x": ("`hydra.run.dir`", "run_dir"),
    "defaults=[smoke]": ("Unknown key `defaults` in {it}",),
    # wrong types and values
    "stages.if_rl.max_steps=abc": ('`stages.if_rl.max_steps` is "abc" in {it}', "whole number"),
    "stages.if_rl.max_steps=2.5": ("`stages.if_rl.max_steps` is 2.5 in {it}", "whole number"),
    "stages.if_rl.max_steps=true": ("is true in {it}", "whole number"),
    "stages.if_rl.max_steps=-1": ("is -1 in {it}", "greater than or equal to 0"),
    "policy.zero_stage=7": ("`policy.zero_stage` is 7 in {it}", "0, 1, 2 or 3"),
    "stages.if_rl.overlong_penalty=maybe": ('is "maybe" in {it}', "true or false"),
    "stages.if_rl.lr_schedule=cosin": ('is "cosin" in {it}', "`cosine`"),
    "stages.sft=3": ("`stages.sft` is 3 in {it}", "mapping"),
    "stages.sft=[1]": ("`stages.sft` is a mapping", "{it} gives a list"),
    "environments=[1,2]": ("`environments` is a mapping", "{it} gives a list"),
    "stages.if_rl.mix=[math]": ("`stages.if_rl.mix` is a mapping", "{it} gives a list"),
    "stages.sft.gates=3": ("`stages.sft.gates` is 3 in {it}", "list"),
    "stages.sft.learning_rate.x=3": ("`stages.sft.learning_rate`", "{it}", "number"),
    "stages.sft.learning_rate=inf": ("`stages.sft.learning_rate`", "finite"),
    "stages.sft.mix.math=nan": ("`stages.sft.mix.math`", "finite"),
    "seed=null": ("`seed` is null in {it}", "whole number"),
    "seed=": ("`seed`", "{it}"),
    "seed=${oops}": ("`seed` in {it}", "'oops' not found"),
    "run_dir=3": ("`run_dir` is 3 in {it}", "text"),
    "stages.sft.learning_rate=???": ("`stages.sft.learning_rate` has no value in {it}",),
    "stages.if_rl.mix={}": ("changes nothing",),
    "environments.math.params.train_rows=1.5": ("`environments.math.params.train_rows` is 1.5 in {it}", "integer"),
    "environments.math.params.train_rows=many": ("is \"many\" in {it}", "integer"),
    "environments.math.params.digits=99": ("`environments.math.params` in", "digits is 99"),
    # engines
    "rollout.engine=vllm": ("`rollout.engine` is \"vllm\" in {it}", "vllm_server"),
    "rollout.replicas=2": ("`rollout.replicas` in {it} does nothing", "Use rollout=vllm_server"),
    "teachers.urls=[http://a:1]": ("`teachers.urls` in {it} does nothing", "Use teachers=vllm_server"),
    "rollout=vllm_inprocess launch=torchrun launch.processes=2": ("serves one process", "rollout=vllm_server"),
    "rollout=vllm_server rollout.urls=[http://a:1] rollout.replicas=2": ("`rollout.replicas`", "1 servers that run"),
    "stages.if_rl.max_staleness=-1": ("`stages.if_rl.max_staleness` is -1 in {it}",),
    "stages.if_rl.max_staleness=1 stages.if_rl.importance=clamp": ("would weight twice", "`importance: none`"),
    "stages.mopd.max_staleness=1 stages.mopd.importance=none": ("older than the policy", "`gate`"),
    # names that do not exist
    "stages.if_rl.from=sfft": ("`stages.if_rl.from` is `sfft` in {it}", "`sft`"),
    "environments.math.domain=mth": ("`environments.math.domain` is `mth` in {it}", "`math`"),
    "~stages.mopd environments.math.domain=code": ("`code` in {it}", "addition is of math"),
    "stages.if_rl.gates=[{min_score:{mth:0.1}}]": ("`stages.if_rl.gates.0.min_score.mth` in {it}", "`math`"),
    "stages.mopd.teachers.mth=sft": ("`stages.mopd.teachers.mth` in {it}", "`math`"),
    "stages.mopd.teachers.math=nobody": ("`stages.mopd.teachers.math` is `nobody` in {it}", "math_teacher"),
    "stages.mopd.teachers.math=mopd": ("no stage `mopd` here", "{it}"),
    "stages.if_rl.mix.mth=1": ("`stages.if_rl.mix.mth` in {it}", "`math`"),
    "environments.math.kind=additoin": ("`environments.math.kind` is `additoin` in {it}", "`addition`"),
    "environments.math.kind=nowhere.Thing": ("`nowhere.Thing` in {it}", "No module named 'nowhere'"),
    "environments.math.kind=cascade.environments.addition.Adition": ("{it}", "Adition is not in"),
    "environments.mathh.max_completion_length=3": ("`environments.mathh.kind` is missing in {it}", "ments.math`"),
    "stages.sft.kind=stf": ("`stages.sft.kind` is `stf` in {it}", "`sft`"),
    "~stages.sft.kind": ("`stages.sft` in {it} has no kind", "sft, rl, mopd"),
    "stages.Sft.max_steps=3": ("`stages.Sft` in {it} has no kind", "`stages.sft`"),
    "launch=torchrunn": ("`launch=torchrunn`", "{it}", "`torchrun`"),
    "rollout=vlm": ("`rollout=vlm`", "{it}", "hf"),
    "policy=3": ("{it}", "conf/policy", "fp32"),
    "launch=null": ("{it}", "conf/launch"),
    "stage@stages.extra=rl": ("`stage@stages.extra`", "+stage@stages.extra"),
    "+stage@stages.extra=rl": ("`stages.extra.mix` is missing in {it}",),
    "~stages.sft.learning_rate": ("`stages.sft.learning_rate` is missing in {it}",),
    "~stages.mopdd": ("`stages.mopdd` to remove", "{it}", "`mopd`"),
    "~stages.sft": ("`stages.math_teacher.from` is `sft` in " + SMOKE, "if_rl"),
    # what must hold between keys
    "stages.sft.from=mopd": ("circle: sft <- mopd <- if_rl <- sft", "{it}"),
    "stages.if_rl.from=if_rl": ("circle: if_rl <- if_rl", "{it}"),
    "stages.math_teacher.from=mopd": ("circle: math_teacher <- mopd <- math_teacher", "{it}", "teachers.math"),
    "launch=torchrun launch.processes=3": ("`stages.sft.batch_size` is 16 in " + SMOKE, "3 processes", "e.g. 18"),
    "launch.processes=2": ("`launch.processes` is 2 in {it}", "needs launch=torchrun"),
    "stages.if_rl.num_generations=1": ("`stages.if_rl.num_generations` is 1 in {it}", "at least 2"),
    "policy.row_tokens=8": ("`policy.row_tokens` is 8 in {it}", "Raise"),
    "model.path=x": ("`model.path` is x in {it}", "no such folder"),
    "stages.if_rl.importance_low=3": ("`stages.if_rl.importance_low` in {it}", "Exchange"),
    "stages.mopd.top_k=4 stages.mopd.outcome_weight=1": ("`stages.mopd.top_k` in the override", "Remove"),
    "stages.mopd.outcome_weight=1 stages.mopd.num_generations=1": ("`stages.mopd.outcome_weight` in the override",),
    "stages.sft.gates=[{max_drop:{math:0.1}}]": ("`stages.sft.gates.0.max_drop` in {it}", "min_score"),
    "stages.math_teacher.from=base stages.math_teacher.gates=[{max_drop:{math:0.1}}]": ("base from scratch",),
    "stages.sft.gates=[{min_score:{math:0.9},action:rollback}] stages.if_rl.gates=[{max_drop:{math:0.1}}]": (
        "`stages.if_rl.gates.0.max_drop`",
        "roll back to the base",
    ),
    # overrides that cannot be read
    "seed=1,2": ("`seed=1,2` gives several values",),
    "seed": ("{it} cannot be read", "KEY=VALUE"),
    "=3": ("{it} cannot be read", "KEY=VALUE"),
    "seed==": ("{it} cannot be read", "KEY=VALUE"),
    "run_dir=/tmp/a=b": ("{it} cannot be read", "quote"),
    'seed="a': ("{it} cannot be read",),
    "recipe=quickstart": ("Several recipes",),
}  # fmt: skip

# content of a user's own recipe at FILE -> what the error must say
WRONG_FILES: dict[str, tuple[str, ...]] = {
    INHERIT + "stages:\n  if_rl:\n    max_stepss: 3\n": ("`stages.if_rl.max_stepss` in FILE:4", "`max_steps`"),
    INHERIT + "typo: 3\n": ("Unknown key `typo` in FILE:2",),
    INHERIT + "hydra: {run: {dir: x}}\n": ("Unknown key `hydra` in FILE:2",),
    INHERIT + "stages: {if_rl: {from: sfft}}\n": ("`sfft` in FILE:2", "`sft`"),
    INHERIT + "stages:\n  if_rl:\n": ("`stages.if_rl` is null in FILE:3", "mapping"),
    INHERIT + "stages: [1]\n": ("`stages` is a list in FILE:2",),
    INHERIT + "stages: {sft: [1]}\n": ("`stages.sft` is a list in FILE:2",),
    INHERIT + "stages: 3\n": ("`stages` is 3 in FILE:2", "mapping"),
    INHERIT + "stages:\n  1: {kind: sft}\n": ("`stages.1` in FILE:3 is not text",),
    INHERIT + "environments:\n  math:\n    domain: mth\n": ("`mth` in FILE:4", "`math`"),
    INHERIT + "environments:\n  math:\n    params: {train_row: 3}\n": ("math.params.train_row` in FILE:4",),
    INHERIT + "stages:\n  sft:\n    gates:\n      - min_score: {mth: 0.1}\n": ("min_score.mth` in FILE:5", "`math`"),
    INHERIT + "stages:\n  extra:\n    mix: {math: 1}\n": ("`stages.extra` in FILE:3 has no kind", "sft, rl, mopd"),
    INHERIT + "stages:\n  extra:\n    kind: rll\n": ("`stages.extra.kind` is `rll` in FILE:4", "`rl`"),
    INHERIT + "run_dir: runs/${nme}\n": ("`run_dir` in FILE:2", "'nme' not found"),
    INHERIT + "stages: {a: [}\n": ("FILE:2 is not YAML",),
    INHERIT + "stages:\n\tif_rl: 3\n": ("FILE:3 is not YAML",),
    INHERIT + "seed: 1\nseed: 2\n": ("FILE:3 is not YAML", "duplicate key seed"),
    EXTRA + "    mix: {math: 1}\n": ("`stages.extra.max_steps` is missing in FILE:6",),
    EXTRA.replace("extra", "base"): ("No stage can be called `base`", "FILE:6"),
    EXTRA.replace("extra", "best"): ("No stage can be called `best`",),
    EXTRA.replace(": rl", ": rll"): ("`stage=rll`", "FILE:3", "`rl`"),
    "defaults: [smokee, _self_]\n": ("`smokee`", "FILE:1", "`smoke`"),
    "defaults: [mine, _self_]\n": ("come back to a recipe called `mine`",),
    "defaults: smoke\n": ("defaults must be a list",),
    "defaults: [base, {model: qwen3_moe_tiny}, {stage@stages.sft: sft}, _self_]\n": ("`environments` is missing",),
    "- a\n- b\n": ("FILE", "compose"),
    "": ("`run_dir` is missing in FILE",),
}  # fmt: skip


def error_of(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        checked_recipe(words)
    return str(caught.value)


ALL_AT_ONCE = """
import contextlib, io, json, sys, time
from cascade.cli import main
results = []
for words in json.load(sys.stdin):
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["run", *words])
        except SystemExit as end:
            results.append([end.code, out.getvalue(), err.getvalue(), time.process_time() - start])
print(json.dumps([results, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def outcomes() -> tuple[dict[str, tuple[int, str, str, float]], bool]:
    """What `cascade run` did with each (exit code, stdout, stderr, CPU seconds), and whether torch was imported."""
    cases = [["recipe=smoke", *words.split(" ")] for words in WRONG_OVERRIDES]
    command = [sys.executable, "-c", ALL_AT_ONCE]
    done = subprocess.run(
        command, input=json.dumps(cases), capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=300
    )
    results, torch_imported = json.loads(done.stdout)
    return dict(zip(WRONG_OVERRIDES, map(tuple, results), strict=True)), torch_imported


@pytest.mark.parametrize("words", WRONG_OVERRIDES)
def test_a_wrong_override_is_one_quick_error_that_names_the_key_the_override_and_the_nearest_name(
    words: str, outcomes: tuple[dict[str, tuple[int, str, str, float]], bool]
) -> None:
    code, out, err, seconds = outcomes[0][words]
    assert (code, out) == (1, "")
    assert err.startswith("cascade: ")
    assert err.count("\n") == 1
    assert seconds < 3
    for expected in WRONG_OVERRIDES[words]:
        assert expected.replace("{it}", f"the override `{words.split(' ')[-1]}`").lower() in err.lower()


def test_all_of_them_are_found_before_torch_is_imported(
    outcomes: tuple[dict[str, tuple[int, str, str, float]], bool],
) -> None:
    assert not outcomes[1]


def test_a_wrong_key_costs_less_than_three_seconds_from_a_cold_start() -> None:
    started_s = children_cpu_s()
    done = cascade("run", "recipe=smoke", "stages.if_rl.max_stepss=3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "`max_steps`" in done.stderr
    assert children_cpu_s() - started_s < 3


@pytest.mark.parametrize("content", WRONG_FILES)
def test_a_wrong_recipe_file_is_an_error_that_names_the_key_the_line_and_the_nearest_name(
    content: str, tmp_path: Path
) -> None:
    if "extra" not in content and "stages.b" in content:
        content += "    mix: {math: 1}\n    max_steps: 1\n"
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    said = error_of(f"recipe={file}")
    expected = next(value for key, value in WRONG_FILES.items() if content.startswith(key) and (key or not content))
    for part in expected:
        assert part.replace("FILE", str(file)) in said
    assert "\n" not in said


def test_the_recipe_itself_is_named_or_the_error_says_which_there_are(tmp_path: Path) -> None:
    assert "Did you mean `smoke`?" in error_of("recipe=smokee")
    assert "No recipe was named. Add `recipe=NAME`" in error_of("seed=3")
    assert "Add `recipe=smoke`" in error_of("smoke")
    (tmp_path / "mine.yaml").write_text(INHERIT)
    (tmp_path / "other.yml").write_text(INHERIT)
    assert f"Did you mean `{tmp_path}/mine.yaml`?" in error_of(f"recipe={tmp_path}/mime.yaml")
    assert "does not end in .yaml" in error_of(f"recipe={tmp_path}/other.yml")


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(INHERIT.encode() + b"run_dir: \xff\n")
    assert "is not UTF-8" in error_of(f"recipe={tmp_path}/mine.yaml")


def test_overrides_reach_the_recipe() -> None:
    words = (
        "stages.if_rl.from=base run_dir=/tmp/elsewhere seed=7 policy.zero_stage=2 rollout=hf launch=torchrun "
        "launch.processes=2 stages.if_rl.max_steps=9 stages.if_rl.learning_rate=1e-4 stages.if_rl.num_generations=8 "
        "stages.mopd.learning_rate=3 policy=bf16"
    )
    recipe, order, _, asked = checked_recipe(["recipe=smoke", *words.split()])
    if_rl = recipe.stages["if_rl"]
    assert isinstance(if_rl, RlStage)
    assert (if_rl.parent, if_rl.max_steps, if_rl.learning_rate, if_rl.num_generations) == ("base", 9, 1e-4, 8)
    assert isinstance(if_rl.learning_rate, float)
    assert (recipe.run_dir, recipe.seed, recipe.policy.zero_stage, recipe.rollout.engine) == (
        "/tmp/elsewhere",
        7,
        2,
        "hf",
    )
    assert (recipe.launch.kind, recipe.launch.processes, recipe.policy.dtype) == ("torchrun", 2, "bf16")
    assert order == ["sft", "if_rl", "math_teacher", "mopd"]
    assert json.loads(asked) == ["smoke", *words.split()]


def test_the_last_of_two_overrides_counts() -> None:
    assert checked_recipe(["recipe=smoke", "seed=1", "seed=2"])[0].seed == 2


def test_a_stage_can_be_removed_and_the_next_one_starts_from_the_one_before() -> None:
    recipe, order, *_ = checked_recipe(["recipe=smoke", "~stages.mopd"])
    assert order == ["sft", "if_rl", "math_teacher"]
    recipe, *_ = checked_recipe(["recipe=smoke", "~stages.if_rl", "~stages.mopd.from"])
    assert parents(recipe) == {"sft": "base", "math_teacher": "sft", "mopd": "math_teacher"}


def test_a_recipe_elsewhere_inherits_ours_adds_a_stage_and_is_called_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a team's = ünusual name.yaml"
    file.write_text(EXTRA + "    mix: {math: 1}\n    max_steps: 2\n    learning_rate: 1e-4\n")
    recipe, order, *_ = checked_recipe([f"recipe={file}"])
    assert recipe.name == file.stem
    assert recipe.run_dir == f"runs/{file.stem}"
    assert order[-1] == "extra"
    assert parents(recipe)["extra"] == "mopd"
    assert recipe.stages["extra"].learning_rate == 1e-4


def test_the_recipe_names_itself_where_it_wants_to(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(INHERIT + "name: ours\n")
    assert checked_recipe([f"recipe={file}"])[0].run_dir == "runs/ours"


def test_stages_run_parents_and_teachers_first() -> None:
    _, order, *_ = checked_recipe(["recipe=smoke", "stages.if_rl.from=math_teacher"])
    assert order == ["sft", "math_teacher", "if_rl", "mopd"]


def test_parameters_reach_an_environment_of_ones_own_in_the_types_it_declares() -> None:
    kind = "tests.test_config.Own"
    words = [f"environments.math.kind={kind}", "~environments.math.params", "+environments.math.params.sizes=[1,2]"]
    _, _, environments, _ = checked_recipe(["recipe=smoke", *words])
    assert [row.id for row in environments["math"].rows("train")] == ["(1, 2)"]


def test_a_launcher_that_started_another_number_of_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "a launcher has started 4" in error_of("recipe=smoke", "launch=torchrun", "launch.processes=2")
    assert checked_recipe(["recipe=smoke"])[0].launch.processes == 1


def schema_classes() -> list[type[Any]]:
    found = vars(schema).values()
    return [c for c in found if dataclasses.is_dataclass(c) and getattr(c, "__module__", "") == schema.__name__]  # type: ignore[misc]


def test_every_key_of_the_schema_is_read_somewhere() -> None:
    files = [file for file in (REPOSITORY / "cascade").rglob("*.py") if file.name not in ("config.py", "plan.py")]
    code = "\n".join(file.read_text() for file in files)
    keys = {field.name for cls in schema_classes() for field in dataclasses.fields(cls)}
    assert sorted(key for key in keys if not re.search(rf"\.{key}\b(?!\()", code)) == []


def test_every_key_of_the_schema_is_documented() -> None:
    for cls in schema_classes():
        hints = [
            field.default for field in dataclasses.fields(cls) if field.name != "kind" or cls is schema.LaunchConfig
        ]
        assert all(getattr(hint, "description", None) for hint in hints), cls
        assert cls.__doc__


def test_the_defaults_of_distillation_are_the_papers() -> None:
    mopd = checked_recipe(["recipe=smoke"])[0].stages["mopd"]
    assert isinstance(mopd, MopdStage)
    assert (mopd.importance, mopd.importance_low, mopd.importance_high) == ("gate", 0.5, 2.0)
    assert (mopd.loss_reduction, mopd.warmup_start_ratio, mopd.temperature) == ("sequence", 0.1, 1.0)


def test_docs_config_md_is_up_to_date() -> None:
    command = [sys.executable, "docs/make_config_reference.py", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """A user's environment with a parameter that YAML can only give as a list."""

    domain = "math"
    name: str
    seed: int
    sizes: tuple[int, ...]

    def rows(self, split: str) -> list[Any]:
        from cascade.types import Row

        return [Row(str(self.sizes), "math", self.name, {})]

    def messages(self, row: Any) -> list[Any]:
        return []

    def gold(self, row: Any) -> str:
        return ""

    def score(self, row: Any, answer: str) -> None:
        return None
