"""From a recipe to a finished run: every stage in order, skipped where it is done, resumed where it was killed."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade import parallel
from cascade.atomic import is_complete, write_json, write_text
from cascade.config import MopdStage, Recipe, RewardModelStage, RlStage
from cascade.data.datasets import fingerprint
from cascade.environments.held_out import refuse_held_out
from cascade.errors import GateStop
from cascade.identity import hash_of, stage_identity, versions
from cascade.models.reward import require_reward_head
from cascade.policy.expert_training import check_expert_keys
from cascade.policy.export import CARD
from cascade.policy.support import unsupported
from cascade.ports import ChecksMachine, Environment, Waits
from cascade.prompts import Renderer, trained_messages
from cascade.run_folder import RunFolder, StageStatus
from cascade.stage_graph import BASE, parents
from cascade.stages.base import prepare_base
from cascade.stages.engines import Engines
from cascade.stages.evaluate import evaluate, scored_environments
from cascade.stages.gates import check_gates, sentence
from cascade.stages.reward_model import judged
from cascade.stages.rollout_rewards import REWARD
from cascade.stages.train import StageJob, completion_limits, thinking_modes, train_stage
from cascade.teachers.model_card import model_card
from cascade.teachers.registry import Registry
from cascade.teachers.weights import weights_sha256
from cascade.tracking.stage import StageTrackers
from cascade.types import Checkpoint, GateResult, PairScores, Scores, StageResult


@dataclass
class Pipeline:
    """A run in progress. Every rank holds one and makes the same calls; only rank 0 writes."""

    recipe: Recipe
    order: list[str]  # stages, parents first
    environments: Mapping[str, Environment]
    run: RunFolder
    tokenizer: Any
    trackers: StageTrackers
    engines: Engines
    trained: dict[str, Checkpoint] = field(default_factory=dict)  # stage -> what it trained
    effective: dict[str, Checkpoint] = field(default_factory=dict)  # stage -> what its children start from
    fingerprints: dict[str, str] = field(default_factory=dict)  # environment -> hash of its training rows

    def execute(self) -> None:
        """Runs every stage that is not done. Collective. Raises `GateStop` when a gate stops the run."""
        parallel.on_first(self._check_machine)
        parallel.on_first(self._refuse_held_out)
        base = prepare_base(self.recipe, self.run, self.tokenizer)
        if any(isinstance(stage, RewardModelStage) for stage in self.recipe.stages.values()):
            require_reward_head(self.run.path / base.path)  # before any compute is spent
        check_expert_keys(self.run.path / base.path, self.recipe.stages.values())
        parallel.on_first(lambda: self._say_unsupported(self.run.path / base.path))
        self.trained[BASE] = self.effective[BASE] = base
        parallel.on_first(lambda: self._register(base))
        if self.recipe.model.path:
            self._evaluated(base, None)
        for name in self.order:
            self._stage(name)

    def _stage(self, name: str) -> None:
        stage, parent = self.recipe.stages[name], self.effective[parents(self.recipe)[name]]
        teachers = parallel.on_first(lambda: self._teachers(name))
        data = parallel.on_first(lambda: self._fingerprint(name))
        by_domain = {domain: teacher.identity for domain, teacher in teachers.items()}
        identity = stage_identity(self.recipe, name, parent.identity, by_domain, data)
        job = StageJob(
            name, self.recipe, self.run, identity, parent, teachers, self.environments, self.tokenizer, self.engines
        )
        result = StageResult(name, stage.kind, identity, parents(self.recipe)[name], 0, 0.0, by_domain, {})
        known = parallel.on_first(lambda: self._finished(name, identity))
        if known is None:
            result = self._train(job, result)
        else:
            result = replace(result, steps=known["step"], wall_s=known["wall_s"])
        checkpoint = parallel.on_first(lambda: self._checkpoint(job, data, result))
        self._judge(job, result, checkpoint)

    def _train(self, job: StageJob, result: StageResult) -> StageResult:
        """Trains the stage, leaving `failed` behind when it raises."""
        parallel.on_first(lambda: self._clear_and_mark(job, result))
        trained = False
        try:
            state = train_stage(job, self.trackers)
            trained = True
        finally:
            if not trained and parallel.rank() == 0:
                self.run.write_status(StageStatus.of(result, "failed"))
        return replace(result, steps=state.step, wall_s=state.wall_s)

    def _judge(self, job: StageJob, result: StageResult, checkpoint: Checkpoint) -> None:
        """Evaluates the stage in every domain, checks its gates, and decides what its children start from."""
        scores, gates = self._measured(job, checkpoint)
        failed = [gate for gate in gates if not gate.passed]
        rolled_back = any(gate.action == "rollback" for gate in failed)
        stopped = [gate for gate in failed if gate.action == "stop"]
        result = replace(result, scores=scores, gates=gates)
        status = "stopped" if stopped else "rolled_back" if rolled_back else "done"
        parallel.on_first(lambda: self._conclude(result, status, checkpoint))
        self.trained[job.name] = checkpoint
        self.effective[job.name] = job.parent if rolled_back else checkpoint
        if stopped:
            raise GateStop(
                f"The gate of {job.name} did not hold: {'; '.join(sentence(gate) for gate in stopped)}.",
                "Change the stage, or the gate's action, and run again.",
            )

    def _measured(self, job: StageJob, checkpoint: Checkpoint) -> tuple[Scores, list[GateResult]]:
        """The scores and gates of a stage. A reward model has accuracies instead, which no policy is compared with."""
        if isinstance(job.stage, RewardModelStage):
            pairs = judged(job, self.trackers.say)
            parallel.on_first(lambda: self._write_card(checkpoint, {}, pairs))
            accuracies = {domain: score.accuracy for domain, score in pairs["validation"].items()}
            return {}, check_gates(job.stage.gates, accuracies, {})
        scores = self._evaluated(checkpoint, job.name)
        return scores, parallel.on_first(lambda: self._gates(job, scores))

    # What follows runs on rank 0 only.

    @staticmethod
    def _say_unsupported(base: Path) -> None:
        for line in unsupported(base):
            print(f"not for this architecture: {line}", flush=True)

    def _check_machine(self) -> None:
        """Raises `CascadeError` where environments lack on this machine what they score with.

        Verifiers on a cluster are not asked: what they lack is a failure of theirs.
        """
        here = self.recipe.verifiers.engine == "local"
        for environment in self.environments.values():
            if isinstance(environment, ChecksMachine) and (here or isinstance(environment, Waits)):
                environment.check_machine()

    def _refuse_held_out(self) -> None:
        """Raises `DataError` where a training row is a prompt of a set that is for evaluation only."""
        for name in sorted({name for stage in self.recipe.stages.values() for name in stage.mix}):
            shown = functools.partial(trained_messages, self.environments[name])
            refuse_held_out(name, self.environments[name].rows("train"), shown)

    def _teachers(self, name: str) -> dict[str, Checkpoint]:
        """domain -> the one teacher of that domain: a named stage's checkpoint, or the best so far on validation.

        For a stage that a reward model rewards: that, under `reward`.
        """
        stage = self.recipe.stages[name]
        if isinstance(stage, RlStage) and stage.reward_model:
            return {REWARD: self.trained[stage.reward_model]}
        if not isinstance(stage, MopdStage):
            return {}
        earlier = self.order[: self.order.index(name)]
        stages = self.recipe.stages
        policies = [name for name in earlier if not isinstance(stages[name], RewardModelStage)]
        among = [self.trained[stage_name].identity for stage_name in (BASE, *policies)]
        chosen = {}
        with Registry(self.run.registry) as registry:
            for domain in sorted({self.recipe.environments[environment].domain for environment in stage.mix}):
                asked = stage.teachers.get(domain, "best")
                if asked == "best":
                    best = registry.best(domain, among=among)
                    registry.event(name, "teacher", domain=domain, identity=best.checkpoint.identity, why=best.why)
                    chosen[domain] = best.checkpoint
                else:
                    chosen[domain] = self.trained[asked]
        return chosen

    def _fingerprint(self, name: str) -> str:
        mix = self.recipe.stages[name].mix
        for environment in mix:
            if environment not in self.fingerprints:
                rows = self.environments[environment].rows("train")
                self.fingerprints[environment] = fingerprint({"id": row.id, **row.data} for row in rows)
        return hash_of({environment: self.fingerprints[environment] for environment in mix})

    def _finished(self, name: str, identity: str) -> dict[str, Any] | None:
        """The card of the stage's exported model, when it is complete and of this identity."""
        folder = self.run.model(name)
        if not is_complete(folder):
            return None
        card = json.loads((folder / CARD).read_text())
        return card if card["identity"] == identity else None

    def _clear_and_mark(self, job: StageJob, result: StageResult) -> None:
        previous = self.run.stage_state(job.name)
        if previous is None or previous.identity != job.identity:
            shutil.rmtree(self.run.stage(job.name), ignore_errors=True)  # what lies there is of another identity
        self.run.write_status(StageStatus.of(result, "running"))

    def _checkpoint(self, job: StageJob, data: str, result: StageResult) -> Checkpoint:
        """The stage's registry entry, made once."""
        with Registry(self.run.registry) as registry:
            known = [entry for entry in registry.list() if entry.identity == job.identity]
        if known:
            return known[0]
        folder = self.run.model(job.name)
        checkpoint = Checkpoint(
            identity=job.identity,
            stage=job.name,
            step=result.steps,
            kind=result.kind,
            parent=job.parent.identity,
            path=str(folder.relative_to(self.run.path)),  # so that a run can be moved
            config_hash=hash_of(job.stage),
            data_fingerprint=data,
            weights_sha256=weights_sha256(folder),
            versions=versions(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._register(checkpoint)
        return checkpoint

    def _register(self, checkpoint: Checkpoint) -> None:
        with Registry(self.run.registry) as registry:
            if checkpoint.identity not in {entry.identity for entry in registry.list()}:
                registry.add(checkpoint)
                registry.event(checkpoint.stage, "registered", identity=checkpoint.identity)

    def _evaluated(self, checkpoint: Checkpoint, name: str | None) -> Scores:
        """The scores of a checkpoint, measured unless this very evaluation was made before. Collective."""
        scored = scored_environments(self.environments)
        configs = {environment: self.recipe.environments[environment] for environment in scored}
        asked = hash_of({"evaluation": self.recipe.evaluation, "environments": configs})
        known = parallel.on_first(lambda: self._known_scores(checkpoint, asked))
        if known:
            return known
        started = time.monotonic()
        self.trackers.say(f"{checkpoint.stage}  evaluating {len(scored)} environments")
        engine = self.engines.rollout(self.run.path / checkpoint.path)
        renderer = Renderer(scored, thinking_modes(self.recipe), self.tokenizer)
        limits = completion_limits(self.recipe)
        scores = evaluate(engine, renderer, self.engines.verifiers, self.recipe.evaluation, limits)
        wall_s = time.monotonic() - started
        parallel.on_first(lambda: self._record(checkpoint, scores, asked, name, wall_s))
        means = "  ".join(f"{domain} {score.mean:.2f}" for domain, score in scores["validation"].items())
        self.trackers.say(f"{checkpoint.stage}  validation in {wall_s:.0f} s: {means}")
        return scores

    def _known_scores(self, checkpoint: Checkpoint, asked: str) -> Scores:
        with Registry(self.run.registry) as registry:
            return registry.scores(checkpoint.identity) if registry.evaluated(checkpoint.identity, asked) else {}

    def _record(self, checkpoint: Checkpoint, scores: Scores, asked: str, name: str | None, wall_s: float) -> None:
        with Registry(self.run.registry) as registry:
            registry.record_scores(checkpoint.identity, scores, asked)
            registry.event(checkpoint.stage, "evaluated", wall_s=round(wall_s, 2))
        if name is not None:
            entry = {"identity": checkpoint.identity, "evaluation": asked, "wall_s": wall_s, "scores": scores}
            write_json(self.run.evaluation(name), entry)
            self._write_card(checkpoint, scores)

    def _write_card(self, checkpoint: Checkpoint, scores: Scores, pairs: PairScores | None = None) -> None:
        with Registry(self.run.registry) as registry:
            lineage = registry.lineage(checkpoint.identity)
        write_text(self.run.path / checkpoint.path / "README.md", model_card(checkpoint, lineage, scores, pairs))

    def _gates(self, job: StageJob, scores: Scores) -> list[GateResult]:
        with Registry(self.run.registry) as registry:
            parent = registry.scores(job.parent.identity)
        return check_gates(job.stage.gates, scores["validation"], parent.get("validation", {}))

    def _conclude(self, result: StageResult, status: Any, checkpoint: Checkpoint) -> None:
        shutil.rmtree(self.run.checkpoints(result.name), ignore_errors=True)  # the export is complete: none is needed
        before = self.run.stage_state(result.name)
        self.run.write_status(StageStatus.of(result, status))
        if before is not None and before.status == status and before.identity == result.identity:
            return
        with Registry(self.run.registry) as registry:
            registry.record_gates(checkpoint.identity, result.gates)
            registry.event(result.name, status, gates=[sentence(gate) for gate in result.gates])
        for gate in result.gates:
            if not gate.passed:
                self.trackers.say(f"{result.name}  gate: {sentence(gate)}")
