"""Teachers that servers score think what they think in the training process, also where they share the servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cascade.config import PolicyConfig
from cascade.errors import EngineError
from cascade.rollout.vllm_server import VllmServerEngine
from cascade.teachers.scorer import LocalTeacherScorer
from cascade.teachers.served import ServedTeacherScorer, Station
from cascade.types import TrainingSequence
from tests.rollout.served import KIND
from tests.tiny_models import policy_config, sequences

AGREED = 1e-4
TEACHERS = ("math", "code")
Both = tuple[ServedTeacherScorer, LocalTeacherScorer]


@pytest.fixture
def both(beside: Callable[..., VllmServerEngine], moe: Callable[[int], Path]) -> Both:
    """Two teachers at one station, and in this process."""
    folders = dict(zip(TEACHERS, (moe(1), moe(2)), strict=True))
    config: PolicyConfig = policy_config(KIND)
    return ServedTeacherScorer(folders, [Station(beside())], batch_sequences=4), LocalTeacherScorer(folders, config, 0)


def documents() -> list[TrainingSequence]:
    return sequences(9, seed=3)


@pytest.mark.parametrize("temperature", (1.0, 0.7))
def test_teachers_that_take_turns_score_as_local_ones(both: Both, temperature: float) -> None:
    found = {}
    for teacher in (*TEACHERS, TEACHERS[0]):
        found[teacher] = [scorer.score(teacher, documents(), temperature) for scorer in both]
        ours, theirs = (torch.tensor([value for row in scores for value in row]) for scores in found[teacher])
        assert (ours - theirs).abs().max() < AGREED
    one, other = (torch.tensor(found[teacher][0][0]) for teacher in TEACHERS)
    assert (one - other).abs().max() > 100 * AGREED  # they are two teachers


def test_top_k_of_a_served_teacher_is_the_local_ones(both: Both) -> None:
    ours, theirs = (scorer.top_k("math", documents(), 1.0, 5) for scorer in both)
    for (ids, values), (local_ids, local_values) in zip(ours, theirs, strict=True):
        assert ids.shape == local_ids.shape == values.shape
        assert torch.equal(ids, local_ids)
        assert (values - local_values).abs().max() < AGREED


def test_the_teacher_that_a_server_holds_is_scored_first(both: Both) -> None:
    served, _ = both
    assert served.order(TEACHERS) == ["code", "math"]
    served.score("math", documents()[:1], 1.0)
    assert served.order(TEACHERS) == ["math", "code"]
    with pytest.raises(EngineError, match="No teacher physics"):
        served.score("physics", documents(), 1.0)
