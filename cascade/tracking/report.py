"""The report of a run: one HTML file that needs nothing else, neither network nor scripts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as parquet

from cascade.atomic import write_text
from cascade.run_folder import RunFolder, checkpoint_stages, read_status
from cascade.tracking.files import read_metrics, rollout_files
from cascade.tracking.lineage_svg import Node, TeacherEdge, lineage_svg
from cascade.tracking.matrix import score_matrix
from cascade.tracking.report_page import STYLE, TEMPLATE
from cascade.tracking.samples import Sample, best_and_worst, printable
from cascade.tracking.svg import chart, number

LOGGER = logging.getLogger(__name__)

SPLITS = ("test", "validation")
"""The scores shown are those of the first split that has some."""

CURVES = (
    "reward",
    "loss",
    "accuracy",
    "margin",
    "entropy",
    "completions/mean_length",
    "grad_norm",
    "kl",
    "aux_loss",
    "replay/changed",
    "replay/missing",
    "experts/max_violation",
    "experts/unused",
)
OF_LAYERS = re.compile(r"experts/(\d+)/max_violation")
"""Metrics with a curve a layer, behind the others."""
SHOWN_CHARACTERS = 4000
SAMPLE_COLUMNS = [f.name for f in fields(Sample)]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` of a run, finished or not, and return its path.

    It holds the regression matrix (of the test split, of validation where there is none), stages and gates, the
    lineage graph, the curves, the best and the worst rollout of every stage, versions and the resolved recipe. Raises
    `ConfigError` when `run_dir` is not a run and `DataError` when its state cannot be read.
    """
    run = RunFolder(Path(run_dir))
    status = read_status(run.path)
    stages = status["stages"]
    split = next((name for name in SPLITS if score_matrix(stages, name).domains), SPLITS[0])
    matrix = score_matrix(stages, split)
    taught = _teachers(stages, checkpoint_stages(run))
    recipe = _text(run.resolved)
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    html = page.render(
        style=STYLE,
        run=status["run"],
        recipe_name=_recipe_name(recipe) or _recipe_name(_text(run.recipe)),
        registry=status["registry"],
        split=split,
        matrix=matrix,
        prompts={domain: min(cell.n for cell in matrix.column(domain)) for domain in matrix.domains},
        stages=[_stage_row(stage) for stage in stages],
        pairs=_pairs(run, stages),
        failed=sum(not gate["passed"] for stage in stages for gate in stage["gates"]),
        lineage=lineage_svg([_node(stage) for stage in stages], _edges(taught)),
        teachers=[f"{student} learns {domain} from {teacher} ({who[:12]})" for student, domain, teacher, who in taught],
        curves=_curves(run, stages),
        samples=_samples(run, stages),
        environment=_environment(run),
        recipe=printable(recipe),
    )
    write_text(run.report, html)
    return run.report


def _pairs(run: RunFolder, stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """(stage, split, domain, score) of every reward model that has been evaluated."""
    found = []
    for stage in stages:
        file = run.evaluation(stage["name"])
        if stage["kind"] != "reward_model" or not file.is_file():
            continue
        try:
            pairs = json.loads(file.read_text(encoding="utf-8"))["pairs"]
            found += [(stage["name"], split, domain, s) for split, by in pairs.items() for domain, s in by.items()]
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            LOGGER.warning("%s is left out of the report: it cannot be read (%s).", file, error)
    return found


def _stage_row(stage: Mapping[str, Any]) -> dict[str, Any]:
    minutes, seconds = divmod(round(stage["wall_s"] or 0), 60)
    hours, minutes = divmod(minutes, 60)
    gates = [{"passed": gate["passed"], "words": _gate_words(gate)} for gate in stage["gates"]]
    state = stage["status"].replace("_", " ")
    return {**stage, "state": state, "time": f"{hours}:{minutes:02d}:{seconds:02d}", "gates": gates}


def _gate_words(gate: Mapping[str, Any]) -> str:
    value, threshold = ("not a number" if gate[name] is None else number(gate[name]) for name in ("value", "threshold"))
    if gate["passed"]:
        return f"{gate['rule']} on {gate['domain']} held: {value} against a threshold of {threshold}."
    done = {"warn": "the run went on with a warning", "stop": "the run was stopped", "rollback": "it was rolled back"}
    consequence = done.get(gate["action"], gate["action"])
    return f"FAILED: {gate['rule']} on {gate['domain']}, {value} against a threshold of {threshold}; {consequence}."


def _node(stage: Mapping[str, Any]) -> Node:
    return Node(stage["name"], f"{stage['kind']}, {stage['status'].replace('_', ' ')}", stage["parent"])


def _teachers(stages: Sequence[Mapping[str, Any]], registered: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """(student stage, domain, teacher stage or "another run", checkpoint identity) of every teacher."""
    made_by = {**registered, **{s["identity"]: s["name"] for s in stages if s["identity"]}}
    return [
        (stage["name"], domain, made_by.get(checkpoint, "another run"), checkpoint)
        for stage in stages
        for domain, checkpoint in stage["teachers"].items()
    ]


def _edges(taught: Sequence[tuple[str, str, str, str]]) -> list[TeacherEdge]:
    domains: dict[tuple[str, str], list[str]] = {}
    for student, domain, teacher, _ in taught:
        domains.setdefault((teacher, student), []).append(domain)
    return [TeacherEdge(teacher, student, ", ".join(names)) for (teacher, student), names in domains.items()]


def _curves(run: RunFolder, stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    found = []
    for stage in stages:
        lines = read_metrics(run.metrics(stage["name"]))
        charts = [
            (metric, chart([(line["step"], line[metric]) for line in lines if metric in line], metric, stage["name"]))
            for metric in (*CURVES, *_of_layers(lines))
        ]
        if drawn := [(metric, svg) for metric, svg in charts if svg]:
            found.append((stage["name"], drawn))
    return found


def _of_layers(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that a stage has for every mixture-of-experts layer, in the order of the layers."""
    found = {match[0]: int(match[1]) for line in lines for name in line if (match := OF_LAYERS.fullmatch(name))}
    return sorted(found, key=lambda name: found[name])


def _samples(
    run: RunFolder, stages: Sequence[Mapping[str, Any]]
) -> list[tuple[str, int, str, list[tuple[str, Sample]]]]:
    """(stage, step, note, [(rank, sample)]) from the last rollouts of every stage that has some."""
    found = []
    for stage in stages:
        files = rollout_files(run, stage["name"])
        if not files:
            continue
        try:
            rows = parquet.read_table(files[-1], columns=SAMPLE_COLUMNS).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            LOGGER.warning("%s is left out of the report: it cannot be read (%s).", files[-1], error)
            continue
        samples = [Sample(**{**row, **{k: _cut(row[k]) for k in ("prompt", "completion")}}) for row in rows]
        failures = [sample.failure for sample in samples if sample.failure]
        note = f"{len(samples)} rollouts" + (
            f", {len(failures)} without a reward, e.g. {failures[0]}" if failures else ""
        )
        pairs = best_and_worst(samples)[:1]
        ranked = [("Best", pairs[0][0]), ("Worst", pairs[0][1])] if pairs else []
        found.append((stage["name"], int(files[-1].stem[-6:]), note, ranked))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ... ({len(text)} characters)"


def _environment(run: RunFolder) -> list[tuple[str, str]]:
    text = _text(run.environment)
    try:
        facts = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        return [("environment.json", f"cannot be read: {error}")]
    rows = facts if isinstance(facts, dict) else {"environment": facts}
    return [(name, printable(value if isinstance(value, str) else json.dumps(value))) for name, value in rows.items()]


def _recipe_name(recipe: str) -> str:
    found = re.search(r"^(?:name|recipe):[ \t]*['\"]?([^'\"#\n]+)", recipe, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
