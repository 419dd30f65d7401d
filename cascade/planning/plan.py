"""The plan of a recipe: stages, parents, teachers, batch arithmetic, files. Pure: nothing is built or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cascade.config import (
    MopdStage,
    Recipe,
    RewardModelStage,
    RlStage,
    RolloutConfig,
    SamplingStage,
    SftStage,
    TeachersConfig,
)
from cascade.stage_graph import parents
from cascade.types import REWARDED


def plan(recipe: Recipe, order: Sequence[str]) -> str:
    """The whole plan as text."""
    return "\n".join(_lines(recipe, order))


def _lines(recipe: Recipe, order: Sequence[str]) -> Iterator[str]:
    model, policy = recipe.model, recipe.policy
    source = model.path or f"{model.architecture} from scratch"
    yield f"{recipe.name}: {len(order)} stages from {source}, seed {recipe.seed}"
    yield (
        f"policy: ZeRO-{policy.zero_stage}, {policy.dtype}, {recipe.launch.world_size} process(es) by "
        f"{recipe.launch.kind}, rows of {policy.row_tokens} tokens, {policy.rows_per_micro_batch} a micro-batch, "
        f"{'packed' if policy.packing else 'one document a row'}"
    )
    yield f"rollouts: {_engine(recipe.rollout)}; teachers: {_engine(recipe.teachers)}"
    parent = parents(recipe)
    for place, name in enumerate(order, 1):
        yield ""
        yield f"{place}. {name} ({recipe.stages[name].kind}) from {parent[name]}"
        yield from (f"   {line}" for line in _stage_lines(recipe, name))
    yield ""
    yield from _evaluation_lines(recipe, order)
    yield f"files in {recipe.run_dir}/: recipe.yaml resolved.yaml environment.json stages.json registry.db report.html"
    yield "  stages/NAME/: status.json metrics.jsonl rollouts/ checkpoints/ model/ evaluation.json"


def _engine(config: RolloutConfig | TeachersConfig) -> str:
    if config.engine != "vllm_server":
        return config.engine
    servers = ", ".join(config.urls) or f"{config.replicas} server(s) started on the first node"
    way = f", weights by {config.transport}" if isinstance(config, RolloutConfig) else ""
    return f"{config.engine}, {servers}{way}"


def _stage_lines(recipe: Recipe, name: str) -> Iterator[str]:
    stage = recipe.stages[name]
    total = sum(stage.mix.values())
    yield "mix: " + ", ".join(f"{environment} {weight / total:.0%}" for environment, weight in stage.mix.items())
    if isinstance(stage, MopdStage):
        domains = sorted({recipe.environments[environment].domain for environment in stage.mix})
        yield "teachers: " + ", ".join(f"{domain}: {stage.teachers.get(domain, 'best')}" for domain in domains)
    if isinstance(stage, SftStage):
        yield (
            f"batch: {stage.batch_size} conversations a step, {stage.batch_size // recipe.launch.world_size} a "
            f"process, {stage.batch_size * stage.max_steps:,} in all"
        )
    if isinstance(stage, RewardModelStage):
        yield (
            f"batch: {stage.batch_size} preference pairs a step, {stage.batch_size // recipe.launch.world_size} a "
            f"process, {stage.batch_size * stage.max_steps:,} in all, one document a row"
        )
        yield "evaluated on pairs of its own mix, beside a baseline of lengths alone; no stage starts from it"
    if isinstance(stage, RlStage) and stage.reward_model:
        yield f"answers of the domain {REWARDED} rewarded by {stage.reward_model}, times {stage.reward_model_weight:g}"
    if isinstance(stage, SamplingStage):
        yield from _sampling_lines(recipe, stage)
    yield (
        f"steps: {stage.max_steps}, peak rate {stage.learning_rate:g}, {stage.lr_schedule}"
        f"{f' after {stage.warmup_steps} warm-up steps' if stage.warmup_steps else ''}, "
        f"router {'frozen' if stage.freeze_router else 'trained'}"
    )
    for gate in stage.gates:
        rules = [f"{domain} may fall by {drop:g}" for domain, drop in gate.max_drop.items()]
        rules += [f"{domain} at least {score:g}" for domain, score in gate.min_score.items()]
        yield f"gate: {', '.join(rules)}, else {gate.action}"


def _sampling_lines(recipe: Recipe, stage: SamplingStage) -> Iterator[str]:
    rollouts = stage.prompts_per_step * stage.num_generations
    longest = max(recipe.environments[environment].max_completion_length for environment in stage.mix)
    tokens = min(longest, stage.max_completion_length or longest)
    refills = stage.max_refills if isinstance(stage, RlStage) and stage.dynamic_filtering else 0
    more = f", up to {rollouts * (1 + refills):,} with refills" if refills else ""
    yield (
        f"batch: {stage.prompts_per_step} prompts x {stage.num_generations} rollouts = {rollouts:,} a step{more}, "
        f"{rollouts // recipe.launch.world_size:,} a process, at most {rollouts * tokens:,} sampled tokens a step"
    )
    if stage.max_staleness:
        yield f"rollouts at most {stage.max_staleness} version(s) old: sampled while earlier batches train"


def _evaluation_lines(recipe: Recipe, order: Sequence[str]) -> Iterator[str]:
    config, environments = recipe.evaluation, len(recipe.environments)
    answers = environments * config.samples * (config.validation_rows + config.test_rows)
    policies = [name for name in order if not isinstance(recipe.stages[name], RewardModelStage)]
    evaluated = len(policies) + (recipe.model.path is not None)  # a base from scratch is not
    how = "greedy" if config.temperature == 0 else f"temperature {config.temperature:g}"
    yield (
        f"evaluation after every stage: {environments} environments x ({config.validation_rows} validation + "
        f"{config.test_rows} test rows) x {config.samples} = up to {answers:,} answers, {how}; "
        f"{answers * evaluated:,} in all"
    )
