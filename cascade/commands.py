"""What each `cascade` command does."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from cascade.compose import asked_for, composed
from cascade.config import Recipe, VerifiersConfig
from cascade.environments.catalogue import build_environments, environment_alone
from cascade.errors import ConfigError
from cascade.origins import Origins
from cascade.ports import Environment
from cascade.recipe_checks import check_pairs, check_recipe
from cascade.run_folder import RunFolder, json_text, read_status
from cascade.types import Checkpoint


def checked_recipe(words: Sequence[str]) -> tuple[Recipe, list[str], dict[str, Environment], str]:
    """The recipe of a command line, its stages in order, its environments, and what was asked. Imports no torch."""
    recipe, origins = composed(words)
    order = check_recipe(recipe, origins)
    environments = build_environments(recipe.environments, recipe.seed, origins)
    check_pairs(recipe, environments, origins)
    name, overrides = asked_for(words)
    return recipe, order, environments, json.dumps([name, *overrides])


def plan(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints the plan of a recipe: what it does, and on a cluster what it needs."""
    from cascade.planning.plan import plan as plan_text

    recipe, origins = composed(options.overrides)
    if recipe.cluster is not None:
        return _plan_on_cluster(recipe, origins, options)
    if options.json or options.search:
        raise ConfigError("No cluster was named to plan for.", "Add e.g. `cluster=h100 cluster.nodes=4`.")
    recipe, order, _environments, _asked = checked_recipe(options.overrides)
    print(plan_text(recipe, order))
    print("\n".join(_parameters(recipe)))
    return 0


def _plan_on_cluster(recipe: Recipe, origins: Origins, options: argparse.Namespace) -> int:
    """Its layout is decided before the recipe is checked: what it says of processes may be for other machines."""
    from cascade.launching.commands import commands
    from cascade.planning.changes import alone, words
    from cascade.planning.decided import decided_plan
    from cascade.planning.plan import plan as plan_text
    from cascade.planning.report_text import report, search_lines

    order = check_recipe(alone(recipe), origins)
    environments = build_environments(recipe.environments, recipe.seed, origins)
    check_pairs(recipe, environments, origins)
    found = decided_plan(recipe, order, search=options.search)
    typed = [*options.overrides, *words(found.derived)]
    lines = commands(found.plan.recipe, typed)
    if options.json:
        print(json_text(found.as_json(lines), indent=2))
        return 0
    print(plan_text(found.plan.recipe, order))
    print("\n".join(["", *report(found.plan, found.problems, found.derived, lines, found.together)]))
    if options.search:
        print("\n".join(["", *search_lines(found.plan, found.found)]))
    return 0


def _parameters(recipe: Recipe) -> list[str]:
    """The model's size, where it is known without asking the network."""
    from cascade.planning.report_text import parameter_lines
    from cascade.planning.shapes import model_shape

    try:
        return list(parameter_lines(model_shape(recipe.model)))
    except ConfigError:  # a model that is not on this machine yet
        return []


def run(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Runs a recipe, in this process or in those of a launcher."""
    from cascade.launching.start import start_elsewhere

    recipe, order, environments, asked = checked_recipe(options.overrides)
    if start_elsewhere(recipe, options.overrides, arguments):
        return
    from cascade import parallel
    from cascade.launching.joining import with_other_parts
    from cascade.launching.peers import watched_peers
    from cascade.running import run_recipe

    parallel.start(recipe.launch.threads, recipe.launch.collective_timeout_s, recipe.launch.start_timeout_s)
    with watched_peers(recipe.launch, recipe.run_dir), with_other_parts(recipe) as recipe:
        run_recipe(recipe, order, environments, asked)


def launch(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Writes the job or the manifests of a recipe, and prints them and the commands that start it."""
    from cascade.launching.commands import commands
    from cascade.launching.start import write_files

    recipe, _order, _environments, _asked = checked_recipe(options.overrides)
    file = write_files(recipe, options.overrides)
    print(file.read_text())
    print("\n".join(["", f"written to {file}", *commands(recipe, options.overrides)]))


def status(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Prints where a run stands."""
    state = read_status(run_folder(options.run_dir).path)
    if options.json:
        print(json_text(state, indent=2))
        return
    from cascade.tracking.matrix import regression_matrix

    for stage in state["stages"]:
        steps = f"{stage['steps']} steps, {stage['wall_s']:.0f} s" if stage["steps"] else ""
        print(f"{stage['name']:<24} {stage['kind']:<12} from {stage['parent']:<20} {stage['status']:<12} {steps}")
    print(f"{state['registry']} checkpoints in the registry")
    if any(stage["scores"] for stage in state["stages"]):
        print(regression_matrix(state["stages"], "test"))


def evaluate(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Evaluates a checkpoint, or checks that every row's gold answer scores 1."""
    recipe, _order, environments, _asked = checked_recipe(options.overrides)
    if options.check_gold:
        return _check_gold(recipe, environments)
    from cascade.stages.standalone import evaluate_checkpoint

    model = _model_path(recipe, options.model)
    scores = evaluate_checkpoint(recipe, environments, model, options.split or ["validation", "test"])
    if options.json:
        print(json_text(scores, indent=2))
        return 0
    for split, by_domain in scores.items():
        for domain, score in by_domain.items():
            mean = f"avg@{score.k} {score.mean:.3f} ± {score.interval:.3f}"
            passed = f"  pass@{score.k} {score.pass_at_k:.3f} ± {score.pass_at_k_interval:.3f}" if score.k > 1 else ""
            print(f"{split:<12} {domain:<24} {mean}{passed}  (95 %, n={score.n})")
    return 0


def score(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Scores completions of a file against the rows of another."""
    from cascade.score_files import score_files, write_verdicts
    from cascade.verification.build import build_verifiers
    from cascade.verification.jobs import EnvironmentSpec

    config, environment = environment_alone(options.environment, _params(options.param))
    name = config.kind.rpartition(".")[2]
    specs = {name: EnvironmentSpec(name, config, 0)}
    with closing(build_verifiers(VerifiersConfig(workers=options.workers), {name: environment}, specs)) as verifiers:
        verdicts = score_files(environment, name, options.rows, options.completions, verifiers)
    print(write_verdicts(verdicts, Path(options.out)))


def registry(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Lists checkpoints, shows one, names the best of a domain, or verifies files against their records."""
    from cascade.teachers.registry import Registry

    run_dir = run_folder(options.run_dir)
    with Registry(_existing(run_dir)) as known:
        if options.action == "best":
            if not options.domain:
                raise ConfigError("`cascade registry best` needs a domain.", "Add `--domain math`.")
            best = known.best(options.domain, options.split)
            found = {"checkpoint": best.checkpoint, "path": str(run_dir.path / best.checkpoint.path), "why": best.why}
            text = f"{best.checkpoint.identity}  {best.checkpoint.stage}  {found['path']}\n{best.why}"
            print(json_text(found, indent=2) if options.json else text)
            return 0
        chosen = [_checkpoint(known, options.checkpoint)] if options.checkpoint else known.list()
        if options.action == "verify":
            problems = {entry.identity: known.verify(entry.identity) for entry in chosen}
            for identity, found in problems.items():
                print(f"{identity}  {'; '.join(found) or 'ok'}")
            return int(any(problems.values()))
        if options.json:
            print(json_text([{"checkpoint": c, "scores": known.scores(c.identity)} for c in chosen], indent=2))
            return 0
        for entry in chosen:
            print(f"{entry.identity}  {entry.stage:<24} step {entry.step:<6} from {entry.parent or '-'}")
            if options.action == "show" or options.checkpoint:
                _show(entry, known.scores(entry.identity), [c.stage for c in known.lineage(entry.identity)])
    return 0


def export(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Copies a checkpoint's folder."""
    from cascade.teachers.registry import Registry

    run_dir, out = run_folder(options.run_dir), Path(options.out)
    if out.exists():
        raise ConfigError(f"{out} exists.", "Name a folder that does not.")
    with Registry(_existing(run_dir)) as known:
        checkpoint = _checkpoint(known, options.checkpoint)
        problems = known.verify(checkpoint.identity)
    if problems:
        raise ConfigError(f"{checkpoint.identity} is damaged: {'; '.join(problems)}.", "Run its stage again.")
    shutil.copytree(run_dir.path / checkpoint.path, out)
    print(f"{out}  {checkpoint.stage} step {checkpoint.step}, {checkpoint.identity}")


def report(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Writes report.html."""
    from cascade.tracking.report import write_report

    print(write_report(run_folder(options.run_dir).path))


def doctor(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints what is installed and what is missing, here or on all nodes of a cluster."""
    if options.cluster:
        return _doctor_of_cluster(Path(options.shared), options.timeout_s, as_json=options.json)
    from cascade.doctor import diagnose, exit_code, print_findings

    findings = diagnose()
    print_findings(findings, as_json=options.json)
    return exit_code(findings)


def _doctor_of_cluster(shared: Path, timeout_s: float, *, as_json: bool) -> int:
    from cascade.doctor import print_findings
    from cascade.doctor.cluster import check_cluster

    findings, well = check_cluster(shared, timeout_s)
    if findings:
        print_findings(findings, as_json=as_json)
    sys.stdout.flush()
    os._exit(0 if well else 1)  # a thread that hangs in a collective must not keep the process


def run_folder(named: str | None) -> RunFolder:
    """The run that was named, or the newest one below runs/. Raises `ConfigError` when there is none."""
    if named:
        return RunFolder(Path(named))
    runs = sorted(Path("runs").glob("*/stages.json"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise ConfigError("There is no run below runs/.", "Name the folder of a run.")
    return RunFolder(runs[-1].parent)


def _existing(run_dir: RunFolder) -> Path:
    if not run_dir.registry.is_file():
        raise ConfigError(f"{run_dir.path} has no registry.", "Name the folder of a run.")
    return run_dir.registry


def _checkpoint(known: Any, name: str) -> Checkpoint:
    """By stage name (its newest), or by identity or its beginning."""
    by_stage = known.by_stage(name)
    return by_stage[-1] if by_stage else known.get(name)


def _model_path(recipe: Recipe, name: str | None) -> Path:
    """A folder as it is; else a checkpoint of the recipe's run, by default its newest."""
    from cascade.teachers.registry import Registry

    if name and Path(name).is_dir():
        return Path(name)
    run_dir = RunFolder(Path(recipe.run_dir))
    with Registry(_existing(run_dir)) as known:
        policies = [entry for entry in known.list() if entry.kind != "reward_model"]
        if not policies:
            raise ConfigError(f"{run_dir.registry} has no checkpoint.", "Run the recipe, or give a folder by --model.")
        checkpoint = _checkpoint(known, name) if name else policies[-1]
        if checkpoint.kind == "reward_model":
            raise ConfigError(
                f"{checkpoint.stage} is a reward model, which writes no text to evaluate.",
                f"Its accuracy on pairs is in {run_dir.evaluation(checkpoint.stage)}.",
            )
    return run_dir.path / checkpoint.path


def _check_gold(recipe: Recipe, environments: Mapping[str, Environment]) -> int:
    from cascade.gold_check import check_gold
    from cascade.verification.build import build_verifiers
    from cascade.verification.jobs import specs_of

    specs, wrong = specs_of(recipe.environments, recipe.seed), 0
    with closing(build_verifiers(recipe.verifiers, environments, specs)) as verifiers:
        for found in check_gold(environments, verifiers):
            wrong += len(found.wrong)
            print(found)
    return int(wrong > 0)


def _params(words: Sequence[str]) -> dict[str, Any]:
    """`["grading=fraction", "judge.model=m"]` -> nested values, each read as YAML."""
    params = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
    return cast(dict[str, Any], params)


def _show(entry: Checkpoint, scores: Mapping[str, Mapping[str, Any]], lineage: Sequence[str]) -> None:
    print(
        f"  path {entry.path}\n  lineage {' -> '.join(lineage)}\n  made {entry.created_at}, config {entry.config_hash}"
    )
    for split, by_domain in scores.items():
        for domain, score in by_domain.items():
            print(f"  {split:<12} {domain:<24} {score.mean:.3f} ± {score.stderr:.3f} (n={score.n})")
