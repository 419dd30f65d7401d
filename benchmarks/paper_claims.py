"""Measures what the quick start claims, over seeds, and MOPD against mixed-domain GRPO of equal steps and rollouts.

    python benchmarks/paper_claims.py --seeds 3 --out runs/paper_claims

runs `recipe=paper_claims` once a seed (finished runs are skipped), prints a table, and last one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascade.run_folder import read_status

FALL = 0.05  # a domain has fallen when the policy is this far below its teacher
CLOSED = 0.8  # share of that gap which distillation has to close
RL_STAGES = {
    "if_rl": ("instruction_following",),
    "multi_domain_rl": ("multiple_choice", "tool_use", "structured_output"),
    "preference_teacher": ("preference",),
    "long_context_rl": ("long_context",),
    "math_rl": ("math",),
    "code_rl": ("code",),
    "swe_rl": ("swe",),
}


@dataclass(frozen=True)
class Gain:
    """What an RL stage did to its own domains: the mean over them on the test split."""

    seed: int
    stage: str
    before: float
    after: float
    stderr: float  # of the difference


@dataclass(frozen=True)
class Repair:
    """What a distillation stage did to one domain in which its student had fallen."""

    seed: int
    stage: str
    domain: str
    fallen: float
    after: float
    teacher: float
    teacher_stderr: float

    @property
    def closed(self) -> float:
        """The share of the gap to the teacher that was closed."""
        return (self.after - self.fallen) / (self.teacher - self.fallen)

    @property
    def holds(self) -> bool:
        """At least 80 % of the gap, or within two standard errors of the teacher."""
        return self.closed >= CLOSED or self.after >= self.teacher - 2 * self.teacher_stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/paper_claims"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    runs = {seed: options.out / f"seed_{seed}" for seed in range(options.seeds)}
    for seed, run in runs.items():
        command = [sys.executable, "-m", "cascade", "run", "recipe=paper_claims", f"seed={seed}", f"run_dir={run}"]
        subprocess.run([*command, *options.overrides], check=True)
    stages = {seed: {s["name"]: s for s in read_status(run)["stages"]} for seed, run in runs.items()}
    gains = [gain for seed, by_name in stages.items() for gain in stage_gains(seed, by_name)]
    repairs = [repair for seed, by_name in stages.items() for repair in stage_repairs(seed, by_name)]
    finals = [final_means(by_name) for by_name in stages.values()]
    table = render(gains, repairs, finals)
    (options.out / "table.md").write_text(table)
    print(table)
    print(json.dumps(summary(gains, repairs, finals)))


def test_scores(stage: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """domain -> mean, stderr, n on the test split."""
    return stage["scores"]["test"]


def stage_gains(seed: int, stages: Mapping[str, Any]) -> list[Gain]:
    """Every RL stage against its parent in its own domains."""
    gains = []
    for name, domains in RL_STAGES.items():
        before, after = test_scores(stages[stages[name]["parent"]]), test_scores(stages[name])
        variance = sum(s[d]["stderr"] ** 2 for s in (before, after) for d in domains) / len(domains) ** 2
        means = [statistics.fmean(s[d]["mean"] for d in domains) for s in (before, after)]
        gains.append(Gain(seed, name, means[0], means[1], math.sqrt(variance)))
    return gains


def stage_repairs(seed: int, stages: Mapping[str, Any]) -> list[Repair]:
    """Every domain in which the student of a distillation stage was 5 points or more below its teacher."""
    by_identity = {stage["identity"]: stage for stage in stages.values()}
    repairs = []
    for name, stage in stages.items():
        if stage["kind"] != "mopd":
            continue
        student, after = test_scores(stages[stage["parent"]]), test_scores(stage)
        for domain, identity in stage["teachers"].items():
            teacher = test_scores(by_identity[identity])[domain]
            if teacher["mean"] - student[domain]["mean"] >= FALL:
                before, end = student[domain]["mean"], after[domain]["mean"]
                repairs.append(Repair(seed, name, domain, before, end, teacher["mean"], teacher["stderr"]))
    return repairs


def final_means(stages: Mapping[str, Any]) -> dict[str, float]:
    """The mean over all domains of the fallen policy, after MOPD, and after mixed-domain GRPO."""
    names = {"before": "swe_rl", "mopd": "mopd_2", "grpo": "mixed_grpo"}
    return {key: statistics.fmean(s["mean"] for s in test_scores(stages[n]).values()) for key, n in names.items()}


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % confidence interval over seeds (Student's t)."""
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}.get(len(values), 2.0)
    spread = t * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.3f} ± {spread:.3f}"


def render(gains: Sequence[Gain], repairs: Sequence[Repair], finals: Sequence[Mapping[str, float]]) -> str:
    """The table of the README."""
    lines = ["| claim | measured on the test split (mean ± 95 % interval over seeds) |", "|---|---|"]
    for name in RL_STAGES:
        mine = [gain for gain in gains if gain.stage == name]
        raised = sum(gain.after - gain.before > 2 * gain.stderr for gain in mine)
        lines.append(
            f"| `{name}` raises its own domain | {interval([g.before for g in mine])} to "
            f"{interval([g.after for g in mine])}; by more than two standard errors in {raised} of {len(mine)} seeds |"
        )
    for name in sorted({repair.stage for repair in repairs}):
        mine = [repair for repair in repairs if repair.stage == name]
        seeds = len({repair.seed for repair in mine})
        lines.append(
            f"| `{name}` repairs what fell | {len(mine)} falls of 5 points or more below the teacher in {seeds} seeds; "
            f"{sum(r.holds for r in mine)} closed to 80 % or within two standard errors of the teacher; "
            f"median share of the gap closed {statistics.median(r.closed for r in mine):.2f} |"
        )
    means = {key: [final[key] for final in finals] for key in ("before", "mopd", "grpo")}
    lines.append(
        f"| MOPD against mixed-domain GRPO, equal steps and rollouts, mean of all domains | before "
        f"{interval(means['before'])}, MOPD {interval(means['mopd'])}, GRPO {interval(means['grpo'])} |"
    )
    return "\n".join(lines)


def summary(gains: Sequence[Gain], repairs: Sequence[Repair], finals: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Everything that was measured, as plain data."""
    return {
        "gains": [asdict(gain) for gain in gains],
        "repairs": [{**asdict(repair), "closed": repair.closed, "holds": repair.holds} for repair in repairs],
        "finals": list(finals),
    }


if __name__ == "__main__":
    main()
