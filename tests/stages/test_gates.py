"""A gate compares validation scores of a stage with its parent's, domain by domain."""

from __future__ import annotations

from cascade.config import GateConfig
from cascade.stages.gates import check_gates, sentence
from cascade.types import SplitScore

PARENT = {"math": SplitScore(0.60, 0.02, 300), "code": SplitScore(0.30, 0.02, 300)}
STAGE = {"math": SplitScore(0.50, 0.02, 300), "code": SplitScore(0.40, 0.02, 300)}


def test_a_fall_beyond_the_tolerance_fails_and_a_rise_passes() -> None:
    gates = check_gates([GateConfig(max_drop={"math": 0.05, "code": 0.0}, action="stop")], STAGE, PARENT)
    assert [(gate.domain, gate.passed, gate.action) for gate in gates] == [
        ("math", False, "stop"),
        ("code", True, "stop"),
    ]
    assert abs(gates[0].value - 0.10) < 1e-12
    assert sentence(gates[0]) == "math fell by 0.100, 0.050 is allowed: stop"


def test_a_minimum_needs_no_parent() -> None:
    gates = check_gates([GateConfig(min_score={"math": 0.5, "code": 0.41})], STAGE, {})
    assert [(gate.rule, gate.domain, gate.passed) for gate in gates] == [
        ("min_score", "math", True),
        ("min_score", "code", False),
    ]
