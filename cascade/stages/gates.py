"""Rules on validation scores that a stage must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade.config import GateConfig
from cascade.types import GateResult, SplitScore


def check_gates(
    gates: Sequence[GateConfig], scores: Mapping[str, SplitScore], parent: Mapping[str, SplitScore]
) -> list[GateResult]:
    """Every rule of every gate against the validation scores of the stage and of its parent, domain by domain."""
    results = []
    for gate in gates:
        for domain, threshold in gate.max_drop.items():
            drop = parent[domain].mean - scores[domain].mean
            results.append(GateResult("max_drop", domain, threshold, drop, drop <= threshold, gate.action))
        for domain, threshold in gate.min_score.items():
            mean = scores[domain].mean
            results.append(GateResult("min_score", domain, threshold, mean, mean >= threshold, gate.action))
    return results


def sentence(result: GateResult) -> str:
    """A gate's outcome in words, e.g. `math fell by 0.120, more than 0.050 allows: warn`."""
    if result.rule == "max_drop":
        fact = f"{result.domain} fell by {result.value:.3f}, {result.threshold:.3f} is allowed"
    else:
        fact = f"{result.domain} is at {result.value:.3f}, {result.threshold:.3f} is asked for"
    return fact if result.passed else f"{fact}: {result.action}"
