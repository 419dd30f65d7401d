"""Penalties of a recipe reach the rewards of the environments that have them, and no others."""

from __future__ import annotations

from cascade.config import EnvironmentConfig, PenaltiesConfig, VerifiersConfig
from cascade.environments.addition import Addition
from cascade.environments.attempts import attempt_at
from cascade.types import Row
from cascade.verification.build import build_verifiers
from cascade.verification.jobs import EnvironmentSpec, Job
from cascade.verification.local import LocalVerifiers
from cascade.verification.penalised import PenalisedVerifiers

ROW = Row("sums/1", "math", "sums", {"question": "1+1=", "answer": "2"})


def spec(name: str, **penalties: float) -> EnvironmentSpec:
    return EnvironmentSpec(name, EnvironmentConfig("addition", "math", penalties=PenaltiesConfig(**penalties)), 0)


def test_a_right_answer_that_is_written_wrongly_loses_its_reward() -> None:
    environments = {"sums": Addition(name="sums"), "other": Addition(name="other")}
    specs = {"sums": spec("sums", reasoning_as_answer=1.0, think_tags=0.25), "other": spec("other")}
    verifiers = build_verifiers(VerifiersConfig(workers=1), environments, specs)
    assert isinstance(verifiers, PenalisedVerifiers)
    texts = ("<think>1+1</think>2", "<think>2</think>2", "<think>1+1</think></think>2", "<think>2</think>3")
    attempts = tuple(attempt_at([text]) for text in texts)
    mine, others = verifiers.verify([Job("sums", ROW, attempts), Job("other", ROW, attempts)])
    verifiers.close()
    assert [verdict.score.reward for verdict in mine if verdict.score] == [1.0, 0.0, 0.75, 0.0]
    assert [verdict.score.reward for verdict in others if verdict.score] == [1.0, 1.0, 1.0, 0.0]
    assert mine[1].score is not None
    assert mine[1].score.parts == {"correct": 1.0, "penalty/reasoning_as_answer": 1.0}
    assert "verifiers/verdicts" in verifiers.metrics()


def test_without_penalties_nothing_stands_between() -> None:
    built = build_verifiers(VerifiersConfig(workers=1), {"sums": Addition(name="sums")}, {"sums": spec("sums")})
    assert isinstance(built, LocalVerifiers)
