"""What must hold between the keys of a recipe. Checked on any laptop before anything is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from cascade.config import MopdStage, Recipe, RewardModelStage, RlStage, SamplingStage, SftStage
from cascade.errors import ConfigError
from cascade.launch_checks import check_launch, training_processes
from cascade.naming import nearest
from cascade.origins import Origins
from cascade.ports import Environment, GivesPairs, MultiTurn
from cascade.sharding_checks import check_sharding
from cascade.stage_graph import BASE, RESERVED, parents, stage_order
from cascade.types import DOMAINS, REWARDED


def check_recipe(recipe: Recipe, origins: Origins) -> list[str]:
    """The stages in the order in which they run. Raises `ConfigError` for the first thing that cannot be."""
    _check_model(recipe, origins)
    check_launch(recipe, origins)
    check_sharding(recipe, origins)
    _check_servers(recipe, origins)
    _check_verifiers(recipe, origins)
    for name, environment in recipe.environments.items():
        _known(environment.domain, DOMAINS, f"environments.{name}.domain", "domain", origins)
    for name in recipe.stages:
        _check_stage(recipe, name, origins)
    order = stage_order(recipe, origins)
    for name in order:
        _check_drops(recipe, name, origins)
    return order


def _check_model(recipe: Recipe, origins: Origins) -> None:
    model = recipe.model
    if model.path is None and model.architecture is None:
        raise ConfigError(
            f"`model` in {origins.of(['model'])} needs `path` or `architecture`.",
            "Name a folder or hub id to start from, or an architecture to build from scratch; with both, the "
            "architecture and its `config` declare the shape of what `path` names.",
        )
    if model.architecture and not model.path and not model.tokenizer:
        raise ConfigError(
            f"`model.architecture` in {origins.of(['model'])} has no tokenizer.",
            "Set `model.tokenizer` to a folder, a hub id or `characters`.",
        )
    if model.path and not Path(model.path).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model.path):
        raise ConfigError(
            f"`model.path` is {model.path} in {origins.of(['model', 'path'])}, and there is no such folder.",
            "Correct the path. (`python -m data.smollm2` makes data/models/SmolLM2-135M-Instruct.)",
        )
    if not model.architecture and model.config:
        raise ConfigError(
            f"`model.config` in {origins.of(['model', 'config'])} does nothing with `model.path` alone.",
            "Remove it, since the folder has its own config, or add `model.architecture`: both declare its shape.",
        )


def _check_servers(recipe: Recipe, origins: Origins) -> None:
    processes, rollout = recipe.launch.world_size, recipe.rollout
    if rollout.engine == "vllm_inprocess" and processes > 1:
        raise ConfigError(
            f"`rollout.engine` is vllm_inprocess in {origins.of(['rollout', 'engine'])}, which serves one process, but "
            f"`launch` starts {processes}.",
            "Use rollout=vllm_server, or one process.",
        )
    for section in ("rollout", "teachers"):
        config = getattr(recipe, section)
        if config.engine != "vllm_server" and (config.urls or config.replicas > 1):
            key = "urls" if config.urls else "replicas"
            raise ConfigError(
                f"`{section}.{key}` in {origins.of([section, key])} does nothing: `{section}.engine` is "
                f"{config.engine}, which has no servers.",
                f"Use {section}=vllm_server, or remove it.",
            )
        if config.urls and config.replicas > 1:
            raise ConfigError(
                f"`{section}.replicas` in {origins.of([section, 'replicas'])} does nothing: `{section}.urls` names "
                f"{len(config.urls)} servers that run already.",
                "Remove one of the two.",
            )


def _check_verifiers(recipe: Recipe, origins: Origins) -> None:
    if recipe.verifiers.address and recipe.verifiers.engine != "ray":
        raise ConfigError(
            f"`verifiers.address` in {origins.of(['verifiers', 'address'])} does nothing: `verifiers.engine` is "
            f"{recipe.verifiers.engine}, which stays on this machine.",
            "Use verifiers=ray, or remove it.",
        )


def _check_stage(recipe: Recipe, name: str, origins: Origins) -> None:
    stage, at = recipe.stages[name], f"stages.{name}"
    if name in RESERVED or not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(
            f"No stage can be called `{name}`, as it is in {origins.of(['stages', name])}.",
            f"Choose a word of letters, digits, - and _ other than {' and '.join(RESERVED)}.",
        )
    if stage.parent is not None:
        _known(stage.parent, {*recipe.stages, BASE}, f"{at}.from", "stage", origins)
        _no_reward_model(recipe, stage.parent, f"{at}.from", origins)
    for environment in stage.mix:
        _known(environment, recipe.environments, f"{at}.mix.{environment}", "environment", origins, key=True)
    domains = {environment.domain for environment in recipe.environments.values()}
    for number, gate in enumerate(stage.gates):
        for rule in ("max_drop", "min_score"):
            for domain in getattr(gate, rule):
                _known(domain, domains, f"{at}.gates.{number}.{rule}.{domain}", "domain", origins, key=True)
    if isinstance(stage, (SftStage, RewardModelStage)):
        _divides(recipe, stage.batch_size, f"{at}.batch_size", origins)
    if isinstance(stage, RewardModelStage):
        _check_reward_gates(recipe, name, stage, origins)
    if isinstance(stage, SamplingStage):
        _divides(recipe, stage.prompts_per_step, f"{at}.prompts_per_step", origins, stage.num_generations)
        _check_sampling(recipe, name, stage, origins)
    if isinstance(stage, MopdStage):
        _check_teachers(recipe, name, stage, origins)
    if isinstance(stage, RlStage) and stage.reward_model:
        _check_rewarded(recipe, name, stage, stage.reward_model, origins)


def _check_drops(recipe: Recipe, name: str, origins: Origins) -> None:
    """A fall is measured against the parent's scores, and a base built from scratch is not evaluated."""
    parent = parents(recipe)
    compared = parent[name]
    while compared != BASE and any(gate.action == "rollback" for gate in recipe.stages[compared].gates):
        compared = parent[compared]  # after a rollback the children of a stage start from its parent
    for number, gate in enumerate(recipe.stages[name].gates):
        if gate.max_drop and compared == BASE and not recipe.model.path:
            at = f"stages.{name}.gates.{number}.max_drop"
            raise ConfigError(
                f"`{at}` in {origins.of(at.split('.'))} compares with a base from scratch, which has no scores.",
                "Use `min_score`; a parent that may roll back to the base counts as the base.",
            )


def _check_sampling(recipe: Recipe, name: str, stage: SamplingStage, origins: Origins) -> None:
    at = f"stages.{name}"
    if isinstance(stage, RlStage) and stage.num_generations < 2:
        raise ConfigError(
            f"`{at}.num_generations` is 1 in {origins.of(['stages', name, 'num_generations'])}.",
            "Give a group at least 2 rollouts: an advantage is relative to its group.",
        )
    if isinstance(stage, (RlStage, MopdStage)) and stage.importance_low > stage.importance_high:
        where = origins.of(["stages", name, "importance_low"])
        raise ConfigError(f"`{at}.importance_low` in {where} is above `{at}.importance_high`.", "Exchange them.")
    off_policy = stage.num_iterations > 1 or stage.max_staleness > 0
    if isinstance(stage, RlStage) and stage.importance != "none" and off_policy:
        raise ConfigError(
            f"`{at}.importance` in {origins.of(['stages', name, 'importance'])} would weight twice: with "
            "`num_iterations` above 1 or `max_staleness` above 0 the clipped ratio weights by pi_train / pi_inf.",
            "Set `importance: none`.",
        )
    if isinstance(stage, MopdStage) and stage.importance == "none" and off_policy:
        raise ConfigError(
            f"`{at}.importance` is none in {origins.of(['stages', name, 'importance'])}, but the rollouts of the stage "
            "are older than the policy.",
            "Choose `gate`, or `max_staleness: 0` and `num_iterations: 1`.",
        )
    longest = max(recipe.environments[environment].max_completion_length for environment in stage.mix)
    longest = min(longest, stage.max_completion_length or longest)
    if longest >= recipe.policy.row_tokens:
        raise ConfigError(
            f"`{at}` samples up to {longest} tokens, but `policy.row_tokens` is {recipe.policy.row_tokens} "
            f"in {origins.of(['policy', 'row_tokens'])}.",
            "Raise `policy.row_tokens` above the longest prompt and completion together.",
        )


def _check_teachers(recipe: Recipe, name: str, stage: MopdStage, origins: Origins) -> None:
    domains = {recipe.environments[environment].domain for environment in stage.mix}
    for domain, teacher in stage.teachers.items():
        at = f"stages.{name}.teachers.{domain}"
        _known(domain, domains, at, "domain", origins, key=True)
        if teacher != "best":
            _known(teacher, {*recipe.stages, BASE} - {name}, at, "stage", origins)
            _no_reward_model(recipe, teacher, at, origins)
    if stage.outcome_weight and stage.num_generations < 2:
        raise ConfigError(
            f"`stages.{name}.outcome_weight` in {origins.of(['stages', name, 'outcome_weight'])} needs a group, "
            "but `num_generations` is 1.",
            "Sample at least 2.",
        )
    if stage.top_k and (stage.advantage_clip or stage.outcome_weight or stage.teacher_mix != 1.0):
        raise ConfigError(
            f"With `stages.{name}.top_k` in {origins.of(['stages', name, 'top_k'])}, advantage_clip, outcome_weight "
            "and teacher_mix do nothing.",
            "Remove them, or `top_k`.",
        )


def _check_reward_gates(recipe: Recipe, name: str, stage: RewardModelStage, origins: Origins) -> None:
    """Its only score is its accuracy on pairs of its own domains, and there is nothing to roll back to."""
    domains = {recipe.environments[environment].domain for environment in stage.mix}
    for number, gate in enumerate(stage.gates):
        at = f"stages.{name}.gates.{number}"
        if gate.max_drop or gate.action == "rollback":
            key = "max_drop" if gate.max_drop else "action"
            where = origins.of([*at.split("."), key])
            raise ConfigError(
                f"`{at}.{key}` in {where} cannot be: a reward model's parent has no score on pairs, and no stage "
                "starts from a reward model.",
                "Use `min_score`, the least accuracy on validation pairs, with `warn` or `stop`.",
            )
        for domain in gate.min_score:
            _known(domain, domains, f"{at}.min_score.{domain}", "domain", origins, key=True)


def _check_rewarded(recipe: Recipe, name: str, stage: RlStage, asked: str, origins: Origins) -> None:
    at = f"stages.{name}.reward_model"
    where = origins.of(at.split("."))
    models = [other for other, kind in recipe.stages.items() if isinstance(kind, RewardModelStage)]
    _known(asked, models, at, "reward_model stage", origins)
    if not any(recipe.environments[environment].domain == REWARDED for environment in stage.mix):
        raise ConfigError(
            f"`{at}` in {where} does nothing: no environment of the stage's mix is of the domain {REWARDED}.",
            "Add one, or remove it.",
        )
    if stage.overlong_penalty:
        raise ConfigError(
            f"`stages.{name}.overlong_penalty` sets the reward of unfinished answers to 0, but the rewards of `{at}` "
            f"in {where} have no zero: 0 may be a good one.",
            "Use `overlong_filtering`.",
        )


def _no_reward_model(recipe: Recipe, name: str, at: str, origins: Origins) -> None:
    if name != BASE and isinstance(recipe.stages[name], RewardModelStage):
        raise ConfigError(
            f"`{at}` is `{name}` in {origins.of(at.split('.'))}, a reward model, which writes no text.",
            f"Name a stage of another kind, e.g. `{parents(recipe)[name]}`, which `{name}` starts from.",
        )


def check_pairs(recipe: Recipe, environments: Mapping[str, Environment], origins: Origins) -> None:
    """Reward models learn from environments with pairs, and policies are rewarded by environments that score.

    Raises `ConfigError` for the first mix that has another one.
    """
    for name, stage in recipe.stages.items():
        for environment in stage.mix:
            made, at = environments[environment], f"stages.{name}.mix.{environment}"
            where = origins.of(at.split("."))
            if isinstance(stage, RewardModelStage) and not isinstance(made, GivesPairs):
                raise ConfigError(
                    f"`{at}` in {where} gives no preference pairs, which a reward model learns from.",
                    "Use an environment of kind preference_pairs, or one with a method `pair`.",
                )
            rewarded = isinstance(stage, RlStage) and stage.reward_model and made.domain == REWARDED
            if isinstance(stage, SamplingStage) and isinstance(made, GivesPairs) and made.pairs_only and not rewarded:
                raise ConfigError(
                    f"`{at}` in {where} only holds preference pairs, which score no answer.",
                    "Train a reward_model stage on it and name that as the `reward_model` of an rl stage, or use an "
                    "environment that scores answers.",
                )
            if rewarded and isinstance(made, MultiTurn):
                raise ConfigError(
                    f"`{at}` in {where} answers the model, but a reward model judges one answer to one prompt.",
                    f"Remove `stages.{name}.reward_model`, or this environment from the mix.",
                )


def _divides(recipe: Recipe, number: int, at: str, origins: Origins, each: int = 1) -> None:
    """Training shares out a step's documents: demonstrations, pairs, or `each` rollouts of a prompt."""
    sharing = recipe.policy.sequence_parallel
    processes = training_processes(recipe) // sharing
    if number * each % processes:
        groups = f"{processes} processes" if sharing == 1 else f"{processes} groups of {sharing} processes"
        rollouts = f", {number * each} rollouts a step" if each > 1 else ""
        step = processes // math.gcd(processes, each)
        raise ConfigError(
            f"`{at}` is {number} in {origins.of(at.split('.'))}{rollouts}, which {groups} "
            f"(in {origins.of(['launch', 'processes'])}) do not divide.",
            f"Choose a multiple of {step}, e.g. {number + step - number % step}.",
        )


def _known(value: str, valid: Collection[str], at: str, what: str, origins: Origins, *, key: bool = False) -> None:
    if value not in valid:
        where = origins.of(at.split("."))
        said = f"`{at}` in {where}" if key else f"`{at}` is `{value}` in {where}"
        raise ConfigError(f"{said}: there is no {what} `{value}` here.", nearest(value, valid, what))
