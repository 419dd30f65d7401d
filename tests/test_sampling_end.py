"""What is sampled ahead of the end of a stage is thrown away, and nobody makes verdicts on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cascade.config import EnvironmentConfig, RlStage
from cascade.environments.attempts import attempt_at
from cascade.environments.catalogue import build_environments
from cascade.sampling import Sampler
from cascade.verification.jobs import Job
from cascade.verification.local import LocalVerifiers


class Ahead:
    """A batch that has been sampled and asks for its verdicts when the stage has ended."""

    busy = True

    def __init__(self, verifiers: LocalVerifiers, job: Job) -> None:
        self.verifiers, self.job = verifiers, job
        self.said: Sequence[str] = ()

    def restore(self, batches: object) -> None:
        """As there are none."""

    def close(self) -> None:
        self.said = [verdict.reason for verdicts in self.verifiers.verify([self.job]) for verdict in verdicts]


@pytest.mark.parametrize("fails", [False, True])
def test_verdicts_of_batches_that_are_thrown_away_are_not_made(fails: bool) -> None:
    environments = build_environments({"sums": EnvironmentConfig(kind="addition", domain="math")}, 0)
    verifiers, aborted = LocalVerifiers(environments, {}, workers=1), list[str]()
    stage = RlStage(mix={"sums": 1}, max_steps=1, learning_rate=0.1)
    engine = SimpleNamespace(version=0, abort=lambda: aborted.append("engine"))
    row = environments["sums"].rows("train")[0]
    job = Job("sums", row, (attempt_at([environments["sums"].gold(row)]),))
    sampler = Sampler(cast(Any, engine), verifiers, cast(Any, None), {}, stage, 0, None)
    sampler.ahead = cast(Any, ahead := Ahead(verifiers, job))
    with pytest.raises(RuntimeError) if fails else nullcontext():  # noqa: SIM117
        with sampler.begun(cast(Any, None), cast(Any, SimpleNamespace(waiting=(), step=0))):
            assert verifiers.verify([job])[0][0].status == "ok"
            if fails:
                raise RuntimeError("the stage has failed")
    assert (aborted, ahead.said) == (["engine"], ["nobody wants the verdicts"])
    assert verifiers.verify([job])[0][0].status == "ok"
    verifiers.close()
